"""Files of rows beside the engine's shard: the codes of all multi-vectors, which the engine does not have to know.

    multi_vectors/rows-000001    one code after the other, appended document by document and never changed
    multi_vectors/rows-000002    begun when the first was full

A document's place is its file, its first row and its number of rows. The engine stores it with the document's other
vectors, after the rows are on disk: so a place always leads to complete rows, and a document that is replaced or
deleted takes its place with it. Rows without a place, such as those of an interrupted write, take up space
until the file is compacted.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bge_integrations.atomic_files import sync_folder
from bge_integrations.errors import IndexFormatError, StorageError
from bge_integrations.index.files import write_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The names of the files, and their numbers.
FILE_NAME = re.compile(r"rows-(\d{6,})")
#: A file that is larger than this gets no more rows.
_FILE_BYTES = 256 << 20
#: A file has fewer rows than this, because the engine stores their numbers as float32.
_FILE_ROWS = 1 << 24


class Place(NamedTuple):
    """Where a document's rows are: the number of the file, the first row, and the number of rows."""

    file: int
    row: int
    length: int


class VectorFiles:
    """The files of rows in a folder. Callers hold the index's lock: shared to read, exclusively to change anything.

    Args:
        folder: The folder.
        row_bytes: Bytes per row.
        create: Create the folder, which must not exist.

    Raises:
        IndexFormatError: The folder is missing.
    """

    def __init__(self, folder: Path, row_bytes: int, create: bool = False) -> None:
        self._folder = folder
        self._row_bytes = row_bytes
        self._most_rows = min(_FILE_BYTES // row_bytes, _FILE_ROWS)
        if create:
            folder.mkdir()
            sync_folder(folder.parent)
        elif not folder.is_dir():
            raise IndexFormatError(f"{folder} is missing", advice="restore the index from a copy")
        numbers = sorted(int(name[1]) for path in folder.iterdir() if (name := FILE_NAME.fullmatch(path.name)))
        self._files = {number: self._mapped(number) for number in numbers}
        self._full = 0

    @property
    def rows(self) -> dict[int, int]:
        """The number of rows in each file."""
        return {number: len(rows) for number, rows in self._files.items()}

    def append(self, documents: Sequence[NDArray[np.uint8]]) -> list[Place]:
        """Append documents, uint8 (rows, row_bytes) each with at least one row, and return their places.

        The rows are on disk when this returns.

        Raises:
            DiskFullError: There is not enough disk space; no place leads to what was written.
        """
        places: list[Place] = []
        left = deque(documents)
        while left:
            number = self._file_for(len(left[0]))
            some = [left.popleft()]
            room = self._most_rows - self._end(number) - len(some[0])
            while left and len(left[0]) <= room:
                some.append(left.popleft())
                room -= len(some[-1])
            places += self._append_to(number, some)
        return places

    def close_for_writing(self, numbers: Iterable[int]) -> None:
        """Append no more rows to these files."""
        self._full = max(self._full, *numbers)

    def remove(self, number: int) -> None:
        """Remove a file that no place leads to."""
        del self._files[number]
        self._path(number).unlink()

    def rows_at(self, place: Place) -> NDArray[np.uint8]:
        """Return the rows of a document, which stay valid while the lock is held."""
        return self.file_of(place)[place.row : place.row + place.length]

    def file_of(self, place: Place) -> NDArray[np.uint8]:
        """Return all rows of the file that a place is in, which stay valid while the lock is held.

        Raises:
            StorageError: The file is missing or too short.
        """
        rows = self._files.get(place.file)
        if rows is None or place.row + place.length > len(rows):
            raise StorageError(
                f"{self._path(place.file)} is damaged: the index refers to rows that it lacks",
                advice="restore the index from a copy",
            )
        return rows

    def _file_for(self, count: int) -> int:
        """Return the number of the file that the next `count` rows belong in."""
        last = max([self._full, *self._files])
        fits = last > self._full and self._end(last) + count <= self._most_rows
        return last if fits else last + 1

    def _end(self, number: int) -> int:
        """Return where the next row of a file begins. An interrupted write can have left more than `rows` says."""
        path = self._path(number)
        return -(-path.stat().st_size // self._row_bytes) if path.exists() else 0

    def _append_to(self, number: int, documents: Sequence[NDArray[np.uint8]]) -> list[Place]:
        path = self._path(number)
        first = self._end(number)
        try:
            with path.open("ab", buffering=0) as file:
                before = file.seek(0, os.SEEK_END)
                try:
                    file.truncate(first * self._row_bytes)  # completes a row that an interrupted write has left
                    for rows in documents:
                        left = rows.data.cast("B")
                        while left:
                            left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        file.truncate(before)
                    raise
        except OSError as error:
            raise write_error(path, error) from error
        if number not in self._files:
            sync_folder(self._folder)
        self._files[number] = self._mapped(number)
        starts = first + np.cumsum([0, *map(len, documents)])
        return [Place(number, row, len(rows)) for row, rows in zip(starts.tolist(), documents, strict=False)]

    def _mapped(self, number: int) -> NDArray[np.uint8]:
        """Return the complete rows of a file, mapped into memory."""
        path = self._path(number)
        count = path.stat().st_size // self._row_bytes
        if not count:
            return np.empty((0, self._row_bytes), np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r", shape=(count, self._row_bytes)))

    def _path(self, number: int) -> Path:
        return self._folder / f"rows-{number:06}"


class PlacedRows:
    """The rows of several documents, one after the other, for `MaxSim.scores`.

    Args:
        files: The files.
        places: The places of the documents; sorted ones are read fastest.
    """

    def __init__(self, files: VectorFiles, places: Sequence[Place]) -> None:
        counts = np.array([place.length for place in places], np.int64)
        self.offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        firsts = np.array([place.row for place in places], np.int64)
        self._rows = np.repeat(firsts - self.offsets[:-1], counts) + np.arange(self.offsets[-1])
        #: Where the rows of one file begin and end.
        self._spans: list[tuple[int, int, NDArray[np.uint8]]] = []
        for i, place in enumerate(places):
            begin, end, file = int(self.offsets[i]), int(self.offsets[i + 1]), files.file_of(place)
            if self._spans and self._spans[-1][2] is file:
                begin = self._spans.pop()[0]
            self._spans.append((begin, end, file))

    def read(self, begin: int, codes: NDArray[np.uint8]) -> None:
        """Copy the rows from `begin` on to `codes`, (n, row_bytes)."""
        for first, end, file in self._spans:
            start, stop = max(first, begin), min(end, begin + len(codes))
            if start < stop:
                np.take(file, self._rows[start:stop], axis=0, out=codes[start - begin : stop - begin], mode="clip")
