"""An M3Index that follows a folder of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.documents.reading import find_files
from bge_integrations.documents.splitting import Passage, read_passages, source_of
from bge_integrations.documents.sync import sync
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from bge_integrations.index import M3Index

#: File in the index's folder that records which folder the index follows.
_MADE_FROM = ".made_from"
#: Filter for the documents that come from files. Others were added by hand.
_FROM_FILES = {"source": {"$exists": True}}


@dataclass(frozen=True)
class FolderChanges:
    """What `follow_folder` has done.

    Attributes:
        files: Files that were read.
        passages: Passages they consist of.
        added: Passages that were new or whose text had changed.
        unchanged: Passages that cost no model run.
        removed: Passages that are gone from the files.
    """

    files: int
    passages: int
    added: int
    unchanged: int
    removed: int


def follow_folder(
    index: M3Index,
    folder: Path,
    *,
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
    show_progress: bool = False,
) -> FolderChanges:
    """Bring an index up to date with the files below a folder; documents that were added by hand stay.

    Args:
        index: Remembers the folder and refuses another one later, because that would remove all its passages.
        folder: A folder, or one file.
        on_unreadable: Called with the error of a file that can't be read, whose passages are then removed; None raises
            it.
        show_progress: Show a bar.

    Raises:
        InvalidInputError: The index follows another folder, or there is nothing to read.
        UnreadableFileError: A file can't be read; the message names it.
    """
    files = find_files(folder)
    _check_same_folder(index, folder, files)
    _remember(index, folder)
    passages = read_passages(folder, index.embedder, on_unreadable=on_unreadable)
    with progress_bar(len(files), "file", show_progress) as bar:
        store = _IndexedFiles(index, bar)
        removed = sync(store, ((passage.id, passage) for passage in passages))
    return FolderChanges(len(store.sources), store.passages, store.passages - store.unchanged, store.unchanged, removed)


class _IndexedFiles:
    """The passages in an index that come from files, as a `Store`; it counts what is put and moves a progress bar."""

    def __init__(self, index: M3Index, bar: Any) -> None:
        self._index = index
        self._bar = bar
        self.sources: set[str] = set()
        self.passages = 0
        self.unchanged = 0

    def put(self, passages: Mapping[str, Passage]) -> None:
        stored = {entry.id: entry.text for entry in self._index.get(passages)}
        self.unchanged += sum(stored.get(key) == passage.text for key, passage in passages.items())
        listed = list(passages.values())
        self._index.add([p.text for p in listed], list(passages), [p.metadata for p in listed])
        self.passages += len(listed)
        self.sources.update(passage.source for passage in listed)
        self._bar.update(len(self.sources) - self._bar.n)
        self._bar.set_postfix_str(f"{self.passages} passages")

    def ids(self) -> Iterable[str]:
        return (entry.id for entry in self._index.scan(_FROM_FILES))

    def delete(self, ids: list[str]) -> None:
        self._index.delete(ids)


def _check_same_folder(index: M3Index, folder: Path, files: list[Path]) -> None:
    """Refuse to remove an index's passages because another folder or file was named."""
    record = Path(index.location, _MADE_FROM)
    if record.is_file():
        made_from = os.fsdecode(record.read_bytes())
        if made_from != str(folder.resolve()):
            raise InvalidInputError(
                f"{index.location} is the index of {made_from}, and indexing {folder} would remove passages from it. "
                f"Name another index; if it is the same folder in a new place, delete {record} and run this again"
            )
        return
    # an index made in Python or on a server, or whose record was deleted
    sources = {source_of(file, folder) for file in files}
    stored = {entry.metadata["source"] for entry in index.scan(_FROM_FILES)}
    if stored and not stored & sources:
        raise InvalidInputError(
            f"{index.location} is the index of another folder (with {min(stored)}): indexing {folder} would remove all "
            "its passages. Name another index, or delete that one first"
        )


def _remember(index: M3Index, folder: Path) -> None:
    """Record in the index's folder which folder it follows; an index on a server has no folder."""
    if Path(index.location).is_dir():
        Path(index.location, _MADE_FROM).write_bytes(os.fsencode(folder.resolve()))
