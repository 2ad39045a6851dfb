"""Rows of training data, where each comes from, and what is wrong with it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeAlias, overload

#: What `type` may say: how the rows of a data set are grouped and prompted.
TYPES = ("normal", "only_1neg", "symmetric", "symmetric_class", "symmetric_clustering", "symmetric_sts")
#: The advice of errors about data in another layout.
LAYOUT_ADVICE = 'write one JSON object a line: {"query": "...", "pos": ["..."], "neg": ["..."]}'


@dataclass(frozen=True)
class TrainingRow:
    """A query with texts that answer it and texts that don't.

    Attributes:
        query: The query, without an instruction.
        pos: Texts that answer it; at least one.
        neg: Texts that don't.
        pos_scores, neg_scores: A teacher's scores of `pos` and `neg`, in their order.
        prompt: For embedders, replaces the model's query instruction; for LLM rerankers, the prompt after the pair.
        query_prompt, passage_prompt: For rerankers, replace the instructions of the query and the passage.
        type: How the rows of a data set are grouped and prompted, one of `TYPES`.
        category: The label of a cluster, for in-context examples.
        batch_size, train_group_size: For embedders with `same_dataset`: these sizes for the row's file.
    """

    query: str
    pos: tuple[str, ...]
    neg: tuple[str, ...] = ()
    pos_scores: tuple[float, ...] | None = None
    neg_scores: tuple[float, ...] | None = None
    prompt: str | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    type: str | None = None
    category: str | None = None
    batch_size: int | None = None
    train_group_size: int | None = None


class Location(NamedTuple):
    """Where a row comes from: a file and its line from 1 (0 if unknown), or None and the position in a list from 0."""

    file: Path | None
    line: int

    def __str__(self) -> str:
        if self.file is None:
            return f"row {self.line}"
        return f"{self.file}, line {self.line}" if self.line else str(self.file)


class RowMistake(NamedTuple):
    """A mistake in a row: where it is, the field that is wrong (None: the whole line), and what is wrong."""

    location: Location
    field: str | None
    finding: str

    def __str__(self) -> str:
        return f"{self.location}: {self.finding}"


class TrainingRows(Sequence[TrainingRow]):
    """Checked rows, each with its location. `read_rows` returns them.

    Attributes:
        locations: Where each row comes from, in the order of the rows.
    """

    def __init__(self, rows: Sequence[TrainingRow], locations: Sequence[Location]) -> None:
        assert len(rows) == len(locations)
        self._rows = tuple(rows)
        self.locations = tuple(locations)

    @property
    def files(self) -> list[Path]:
        """The files of the rows, in the order in which they were read."""
        return list(dict.fromkeys(location.file for location in self.locations if location.file is not None))

    @property
    def by_file(self) -> dict[Path | None, list[int]]:
        """The positions of each file's rows: files are the data sets of same-data-set batches."""
        positions: dict[Path | None, list[int]] = {}
        for i, location in enumerate(self.locations):
            positions.setdefault(location.file, []).append(i)
        return positions

    def select(self, positions: Iterable[int]) -> TrainingRows:
        """Return the rows at these positions, with their locations."""
        chosen = list(positions)
        return TrainingRows([self._rows[i] for i in chosen], [self.locations[i] for i in chosen])

    @overload
    def __getitem__(self, at: int) -> TrainingRow: ...
    @overload
    def __getitem__(self, at: slice) -> TrainingRows: ...
    def __getitem__(self, at: int | slice) -> TrainingRow | TrainingRows:
        if isinstance(at, slice):
            return TrainingRows(self._rows[at], self.locations[at])
        return self._rows[at]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TrainingRow]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"TrainingRows({len(self)} rows from {len(self.files)} files)"


#: What `data` may be in every function of this package: a path, several paths, or rows.
TrainingData: TypeAlias = str | os.PathLike[str] | Sequence[str] | Sequence[os.PathLike[str]] | Sequence[TrainingRow]


def normalized(text: str) -> str:
    """Return a text's letters and digits in lower case, by which near-duplicates are recognised."""
    words = "".join(c if c.isalnum() else " " for c in unicodedata.normalize("NFKC", text).casefold()).split()
    return " ".join(words) or text.strip()


def rows_digest(rows: Iterable[TrainingRow]) -> str:
    """Return a digest of the rows' content: SHA-256 in hexadecimal."""
    digest = sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()
