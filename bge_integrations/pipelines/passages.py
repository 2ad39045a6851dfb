"""What the pipelines are asked about: a folder's files, or the bundled documents, as passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bge_integrations import load_embedder
from bge_integrations.demo_documents import bundled_passages
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.reading import Passage, read_passages


def passages_of(
    path: str | Path | None, model: str, on_unreadable: Callable[[UnreadableFileError], None] | None = None
) -> list[Passage]:
    """The passages of a file or of the files below a folder, cut by the model's tokenizer; None: the bundled ones.

    Args:
        path: A file or a folder, or None.
        model: The embedding model that will read them: hub id, folder, or "pocket".
        on_unreadable: Called with the error of a file that can't be read, which is then left out; None raises it.

    Raises:
        InvalidInputError: There is no such path, or nothing in it can be read.
        UnreadableFileError: A file can't be read; it says which.
    """
    if path is None:
        return bundled_passages()
    with load_embedder(model) as embedder:
        passages = list(read_passages(path, embedder, on_unreadable=on_unreadable))
    if not passages:
        raise InvalidInputError(f"no file in {path} could be read")
    return passages


def check_ids(ids: Sequence[str | None]) -> list[str]:
    """The documents' ids, by which a second run knows them; InvalidInputError where there are none, or two the same."""
    if not ids:
        raise InvalidInputError("there are no documents; pass at least one")
    found = [identifier for identifier in ids if identifier]
    if len(set(found)) < len(ids):
        raise InvalidInputError("each document needs an id of its own, by which the next run knows it again")
    return found
