"""Rerankers for mteb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_integrations.errors import InvalidInputError
from bge_integrations.mteb.inputs import all_texts, check_show_progress
from bge_integrations.mteb.metadata import reranker_metadata
from bge_integrations.validation import check_on_truncate

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import Array, BatchedInput, EncodeKwargs, PromptType
    from torch.utils.data import DataLoader
    from typing_extensions import Unpack

    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Reranker


class BGECrossEncoder:
    """An mteb cross-encoder (`CrossEncoderProtocol`) for any BGE reranker. It runs reranking tasks.

    Example:
        >>> import mteb
        >>> from bge_integrations import load_reranker
        >>> from bge_integrations.mteb import BGECrossEncoder
        >>> reranker = load_reranker("BAAI/bge-reranker-v2-m3")
        >>> mteb.evaluate(BGECrossEncoder(reranker), mteb.get_tasks(tasks=["SciDocsRR"]))

    Args:
        reranker: From `load_reranker`; the caller closes it.
        on_truncate: As in `Reranker.score`.

    Attributes:
        mteb_model_meta: The name, revision and settings that mteb stores results under.

    Raises:
        InvalidInputError: `on_truncate` has a value that is not allowed, or the reranker has several cut-off layers.
    """

    def __init__(self, reranker: Reranker, *, on_truncate: OnTruncate = "warn") -> None:
        check_on_truncate(on_truncate)
        if len(reranker.cutoff_layers) > 1:
            raise InvalidInputError(
                f"the reranker returns a score for each of the cut-off layers "
                f"{', '.join(map(str, reranker.cutoff_layers))}, but mteb ranks by one score",
                advice="load it with one cut-off layer",
            )
        self._reranker = reranker
        self._on_truncate = on_truncate
        self.mteb_model_meta = reranker_metadata(reranker)

    def predict(
        self,
        inputs1: DataLoader[BatchedInput],
        inputs2: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> Array:
        """Return the relevance of each text in `inputs2` to the query at the same position in `inputs1`.

        Returns:
            float32 (pairs,), logits.

        Raises:
            InvalidInputError: The inputs contain no text, or an encode_kwarg is not supported.
        """
        show_progress = check_show_progress(kwargs)
        pairs = zip(all_texts(inputs1), all_texts(inputs2), strict=True)
        return self._reranker.score(pairs, on_truncate=self._on_truncate, show_progress=show_progress)
