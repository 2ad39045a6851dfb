"""The passages that the pipelines search: of a folder's files, or of the bundled documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bge_integrations import load_embedder
from bge_integrations.demo_documents import bundled_passages
from bge_integrations.documents import Passage, read_passages
from bge_integrations.errors import InvalidInputError, UnreadableFileError


def passages_of(
    path: str | Path | None, model: str, on_unreadable: Callable[[UnreadableFileError], None] | None = None
) -> list[Passage]:
    """Return the passages of a file or of the files below a folder, split by the model's tokenizer.

    Args:
        path: A file or a folder; None returns the bundled passages.
        model: The embedding model that the passages are for: hub id, folder, or "pocket".
        on_unreadable: Called with the error of a file that can't be read, which is then skipped; None raises it.

    Raises:
        InvalidInputError: The path does not exist, or no file in it can be read.
        UnreadableFileError: A file can't be read; the message names it.
    """
    if path is None:
        return bundled_passages()
    with load_embedder(model) as embedder:
        passages = list(read_passages(path, embedder, on_unreadable=on_unreadable))
    if not passages:
        raise InvalidInputError(f"no file in {path} could be read")
    return passages


def check_ids(ids: Sequence[str | None]) -> list[str]:
    """Return the documents' ids, by which the next run recognises them.

    Raises:
        InvalidInputError: There are no documents, or they do not all have ids of their own.
    """
    if not ids:
        raise InvalidInputError("there are no documents; pass at least one")
    given = [identifier for identifier in ids if identifier]
    if len(set(given)) < len(ids):
        raise InvalidInputError("each document needs an id of its own, by which the next run recognises it")
    return given
