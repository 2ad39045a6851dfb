"""Keep an M3Index in sync with a folder of files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.documents.encoded_data import is_encoded_data
from bge_integrations.documents.finding import sources_of, survey
from bge_integrations.documents.pictures import Picture, is_picture, read_pictures
from bge_integrations.documents.splitting import Passage, read_passages
from bge_integrations.documents.sync import sync
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from bge_integrations.index import M3Index, StoredDocument

#: File in the index's folder that records which folder the index was made from.
_MADE_FROM = ".made_from"
#: Filter for documents that come from files; the others were added by hand.
_FROM_FILES = {"source": {"$exists": True}}


@dataclass(frozen=True)
class FolderChanges:
    """The changes that `follow_folder` made.

    Attributes:
        files: Number of files read.
        passages: Number of passages in them; a picture is one passage.
        added: Number of new and changed passages.
        unchanged: Number of unchanged passages, which were not encoded again.
        removed: Number of passages removed, because they are gone from the files.
        passed_over: Number of files and folders that were not read, by kind: ".zip", "without suffix", "hidden",
            "excluded", "index", "linked folder".
        encoded_data: Number of passages that are not natural language, such as Base64 or minified code.
    """

    files: int
    passages: int
    added: int
    unchanged: int
    removed: int
    passed_over: Mapping[str, int] = field(default_factory=dict, hash=False)
    encoded_data: int = 0


def follow_folder(
    index: M3Index,
    folder: Path,
    *,
    passage_tokens: int | None = None,
    min_tokens: int | None = None,
    overlap_tokens: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
    show_progress: bool = False,
) -> FolderChanges:
    """Update an index with the files of a folder. Documents that were added by hand are kept.

    If the index's model takes images, each picture becomes a document without a text, whose id is the picture's path in
    the folder. Other models pass over pictures.

    The index does not remember how the files were chosen and split. With other arguments, the next call changes it.

    Args:
        index: The index. It can't be used with another folder later, because that would remove all its passages.
        folder: A folder, including its subfolders, or one file.
        passage_tokens, min_tokens, overlap_tokens, include, exclude, follow_links: As for `read_passages`.
        on_unreadable: Called with the error of a file that can't be read, whose passages are then removed; None raises
            the error.
        show_progress: Show a progress bar.

    Raises:
        InvalidInputError: The index was made from another folder, or there are no files to read.
        UnreadableFileError: A file can't be read; the message names it.
    """
    patterns = {"include": include, "exclude": exclude}
    found = survey(folder, **patterns, follow_links=follow_links, pictures=index.embedder.takes_images)
    passages: Iterable[Passage] = ()
    if not all(map(is_picture, found.files)):
        passages = read_passages(
            folder,
            index.embedder,
            passage_tokens=passage_tokens,
            min_tokens=min_tokens,
            overlap_tokens=overlap_tokens,
            **patterns,
            follow_links=follow_links,
            on_unreadable=on_unreadable,
        )
    pictures = read_pictures(found.files, sources_of(found.files, folder), on_unreadable)
    documents: Iterable[tuple[str, Passage | Picture]] = chain(
        ((passage.id, passage) for passage in passages), ((picture.source, picture) for picture in pictures)
    )
    _check_same_folder(index, folder, found.files)
    _remember(index, folder)
    with progress_bar(len(found.files), "file", show_progress) as bar:
        store = _IndexedFiles(index, bar)
        removed = sync(store, documents)
    added = store.passages - store.unchanged
    return FolderChanges(
        len(store.sources),
        store.passages,
        added,
        store.unchanged,
        removed,
        passed_over=found.passed_over,
        encoded_data=store.encoded_data,
    )


class _IndexedFiles:
    """The documents of an index that come from files, as a `Store` that counts changes and shows progress."""

    def __init__(self, index: M3Index, bar: Any) -> None:
        self._index = index
        self._bar = bar
        self.sources: set[str] = set()
        self.passages = 0
        self.unchanged = 0
        self.encoded_data = 0

    def put(self, documents: Mapping[str, Passage | Picture]) -> None:
        stored = {entry.id: entry for entry in self._index.get(documents)}
        self.unchanged += sum(key in stored and _is_unchanged(stored[key], each) for key, each in documents.items())
        batch = list(documents.values())
        inputs = [{"image": each.file} if isinstance(each, Picture) else each.text for each in batch]
        self._index.add(inputs, list(documents), [each.metadata for each in batch])
        self.passages += len(batch)
        self.encoded_data += sum(is_encoded_data(each.text) for each in batch if isinstance(each, Passage))
        self.sources.update(each.source for each in batch)
        self._bar.update(len(self.sources) - self._bar.n)
        self._bar.set_postfix_str(f"{self.passages} passages")

    def ids(self) -> Iterable[str]:
        return (entry.id for entry in self._index.scan(_FROM_FILES))

    def delete(self, ids: list[str]) -> None:
        self._index.delete(ids)


def _is_unchanged(stored: StoredDocument, document: Passage | Picture) -> bool:
    """Return whether a document need not be encoded again."""
    if isinstance(document, Picture):
        return stored.metadata.get("digest") == document.digest
    return stored.text == document.text


def _check_same_folder(index: M3Index, folder: Path, files: list[Path]) -> None:
    """Raise InvalidInputError if the index was made from another folder: its passages would be removed."""
    record = Path(index.location, _MADE_FROM)
    if record.is_file():
        made_from = os.fsdecode(record.read_bytes())
        if _composed(made_from) != _composed(str(folder.resolve())):
            raise InvalidInputError(
                f"{index.location} is the index of {made_from}, and indexing {folder} would remove passages from it",
                advice=f"choose another index; if the same folder was moved, delete {record} and run this again",
            )
        return
    # made in Python, on a server, or the record was deleted
    sources = {_composed(source) for source in sources_of(files, folder)}
    stored = {_composed(str(entry.metadata["source"])) for entry in index.scan(_FROM_FILES)}
    if stored and not stored & sources:
        raise InvalidInputError(
            f"{index.location} is the index of another folder (with {min(stored)}), and indexing {folder} would remove "
            "all its passages",
            advice="choose another index, or delete that one first",
        )


def _composed(path: str) -> str:
    """Return a path in Unicode's form NFC: some systems change the form of names."""
    return unicodedata.normalize("NFC", path)


def _remember(index: M3Index, folder: Path) -> None:
    """Record the folder that the index was made from, unless the index is on a server."""
    if Path(index.location).is_dir():
        Path(index.location, _MADE_FROM).write_bytes(os.fsencode(folder.resolve()))
