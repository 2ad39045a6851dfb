"""Reading the texts and arguments that mteb passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mteb.types import PromptType

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mteb.types import BatchedInput, EncodeKwargs

    from bge_integrations.core.embedder import TextKind


def all_texts(inputs: Iterable[BatchedInput]) -> list[str]:
    """Return the texts of all batches."""
    return [text for batch in inputs for text in texts_of(batch)]


def texts_of(batch: BatchedInput) -> list[str]:
    """Return a batch's texts as mteb joins them: title and body of a document, query and instruction of a query.

    Raises:
        InvalidInputError: The batch has no text.
    """
    content = cast("Mapping[str, list[str]]", batch)
    if "text" not in content:
        raise InvalidInputError(
            f"this task's inputs contain {', '.join(sorted(content))} but no text",
            advice="choose tasks whose modality is text",
        )
    return content["text"]


def kind_of(prompt_type: PromptType) -> TextKind:
    """Return the embedder's text kind for mteb's prompt type."""
    return "query" if prompt_type == PromptType.query else "passage"


def check_show_progress(encode_kwargs: EncodeKwargs) -> bool:
    """Check the encode_kwargs, and return whether to show a progress bar (the default, as in mteb's own models).

    Raises:
        InvalidInputError: An encode_kwarg is not supported.
    """
    if unknown := encode_kwargs.keys() - {"batch_size", "show_progress_bar"}:
        raise InvalidInputError(
            f"encode_kwargs {', '.join(sorted(unknown))} are not supported",
            advice="set dtype, max_length, truncate_dim and instructions when you load the model",
        )
    return encode_kwargs.get("show_progress_bar", True)
