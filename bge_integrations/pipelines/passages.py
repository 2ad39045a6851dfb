"""The passages that the pipelines search: from a folder's files, or the bundled documents."""

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
    """Return the passages of a file or folder, split with the model's tokenizer.

    Args:
        path: A file or a folder; None means the bundled passages.
        model: The embedding model that the passages are for: hub id, folder, or "pocket".
        on_unreadable: Called with the error of a file that can't be read, which is then skipped; None raises the error.

    Raises:
        InvalidInputError: The path does not exist, or no file in it can be read.
        UnreadableFileError: A file can't be read; the message names it.
    """
    if path is None:
        return bundled_passages()
    with load_embedder(model) as embedder:
        passages = list(read_passages(path, embedder, on_unreadable=on_unreadable))
    if not passages:
        raise InvalidInputError(
            f"no file in {path} could be read", argument="path", advice="repair or convert the files"
        )
    return passages


def check_ids(ids: Sequence[str | None]) -> list[str]:
    """Return the ids of the documents, after checking that the next run can recognise documents by them.

    Raises:
        InvalidInputError: There are no documents, or their ids are missing or not unique.
    """
    if not ids:
        raise InvalidInputError("there are no documents", advice="pass at least one")
    given = [identifier for identifier in ids if identifier]
    if len(set(given)) < len(ids):
        raise InvalidInputError(
            "the documents' ids are missing or not unique", advice="give each an id that stays the same from run to run"
        )
    return given
