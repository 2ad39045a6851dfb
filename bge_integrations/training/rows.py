"""Rows of training data: read from FlagEmbedding's JSONL, checked, and written back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

from bge_integrations.atomic_files import atomic_writer
from bge_integrations.errors import InvalidInputError, TrainingDataError
from bge_integrations.reporting import warn_caller
from bge_integrations.validation import check_text

#: Suffixes of the files that are read.
_SUFFIXES = (".json", ".jsonl")
#: What `type` may say: how the rows of a data set are grouped and prompted.
TYPES = ("normal", "only_1neg", "symmetric", "symmetric_class", "symmetric_clustering", "symmetric_sts")
#: Maximum number of mistakes that are kept for the error.
_KEPT = 100
_LAYOUT = 'write one JSON object a line: {"query": "...", "pos": ["..."], "neg": ["..."]}'


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


_FIELDS = tuple(field.name for field in dataclasses.fields(TrainingRow))
_TEXTS = ("prompt", "query_prompt", "passage_prompt", "category")


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


def read_rows(source: TrainingData) -> TrainingRows:
    """Read and check training data; all mistakes are reported together.

    Args:
        source: A .json or .jsonl file with one object a line, a folder of such files (not deeper), several files and
            folders, or a sequence of `TrainingRow`. A field that is null counts as missing; fields that `TrainingRow`
            does not have are ignored with a warning.

    Raises:
        TrainingDataError: Lines are not UTF-8 or not JSON, a list is missing, empty or a string, scores have the wrong
            number or are not finite, a text is blank, or `type` is unknown. It names each file and line.
        InvalidInputError: There is no such file, a folder has no file to read, or there is no row.
    """
    if isinstance(source, TrainingRows):
        return source
    collector = RowCollector()
    if isinstance(source, (str, os.PathLike)):
        source = [os.fspath(source)]
    if not isinstance(source, Sequence):
        raise InvalidInputError(
            f"data must be a path, a list of paths or a list of TrainingRow, got {type(source).__name__}",
            argument="data",
        )
    made = [each for each in source if isinstance(each, TrainingRow)]
    if len(made) == len(source):
        for position, row in enumerate(made):
            collector.add(vars(row), Location(None, position))
    else:
        for file in find_files(source, _SUFFIXES):
            for line, fields in json_rows(file, collector):
                collector.add(fields, Location(file, line))
    return collector.finish()


def write_rows(rows: Iterable[TrainingRow], file: str | os.PathLike[str]) -> None:
    """Write rows in FlagEmbedding's JSONL; the file is replaced when all are written."""
    with atomic_writer(Path(file)) as opened:
        for row in rows:
            fields = {name: value for name, value in vars(row).items() if value is not None}
            opened.write((json.dumps(fields, ensure_ascii=False) + "\n").encode())


def find_files(paths: Sequence[object], suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files that these paths name, with a folder's own files sorted by name.

    Raises:
        InvalidInputError: A path does not exist, has another suffix, or is a folder without such a file.
    """
    wanted = " or ".join(suffixes)
    files: list[Path] = []
    for given in paths:
        if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
            raise InvalidInputError(f"data has {given!r}, which is not a path", argument="data")
        path = Path(given)
        if path.is_dir():
            found = sorted(each for each in path.iterdir() if each.suffix in suffixes and each.is_file())
            if not found:
                raise InvalidInputError(f"the folder {path} has no {wanted} file", argument="data")
            files += found
        elif not path.is_file():
            raise InvalidInputError(f"{path} does not exist", argument="data", advice="check the path")
        elif path.suffix not in suffixes:
            raise InvalidInputError(f"{path} is not a {wanted} file", argument="data", advice=_LAYOUT)
        else:
            files.append(path)
    return files


class RowCollector:
    """Checks rows one by one, and collects them and their mistakes."""

    def __init__(self) -> None:
        self._rows: list[TrainingRow] = []
        self._locations: list[Location] = []
        self._mistakes: list[RowMistake] = []
        self._count = 0
        self._ignored: dict[str, Location] = {}

    def add(self, fields: Mapping[str, Any], location: Location) -> None:
        """Add a row, or report its mistakes."""
        if not self.check(fields, location):
            return
        given = _given(fields)
        for name in given.keys() - set(_FIELDS):
            self._ignored.setdefault(name, location)
        self._rows.append(TrainingRow(**{name: _frozen(value) for name, value in given.items() if name in _FIELDS}))
        self._locations.append(location)

    def check(self, fields: Mapping[str, Any], location: Location) -> bool:
        """Report the mistakes of a row; return whether it has none."""
        mistakes = list(_mistakes(_given(fields)))
        for field, finding in mistakes:
            self.reject(location, field, finding)
        return not mistakes

    def reject(self, location: Location, field: str | None, finding: str) -> None:
        """Report a mistake."""
        self._count += 1
        if len(self._mistakes) < _KEPT:
            self._mistakes.append(RowMistake(location, field, finding))

    def finish(self) -> TrainingRows:
        """Return the rows, or raise the errors of `read_rows`."""
        if self._mistakes:
            raise TrainingDataError(tuple(self._mistakes), self._count, advice="correct or remove these lines")
        if not self._rows:
            raise InvalidInputError("there is no row to train on", argument="data", advice=_LAYOUT)
        for name, location in self._ignored.items():
            warn_caller(f"the field {name!r} is ignored (first in {location})", UserWarning)
        return TrainingRows(self._rows, self._locations)


def normalized(text: str) -> str:
    """Return a text's letters and digits in lower case, by which near-duplicates are recognised."""
    words = "".join(c if c.isalnum() else " " for c in unicodedata.normalize("NFKC", text).casefold()).split()
    return " ".join(words) or text


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def json_rows(file: Path, collector: RowCollector) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and object of each line that is not blank; report the lines that are no object."""
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            location = Location(file, number)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                collector.reject(location, None, f"it is not UTF-8 ({error.reason} at byte {error.start + 1})")
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    return  # UTF-16: all lines would be reported
                continue
            if not text:
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                collector.reject(location, None, f"it is not JSON ({error})")
                if number == 1 and text.startswith("["):
                    return  # an array over several lines: all lines would be reported
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                collector.reject(location, None, f"it is a JSON {type(row).__name__}, not an object")


def _mistakes(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the field and the finding of each mistake in a row without empty fields."""
    if "query" not in row:
        yield "query", f"it has no 'query', only {', '.join(map(repr, row)) or 'nothing'}"
    else:
        yield from _text_mistakes(row["query"], "query", "query")
    if "pos" not in row:
        yield "pos", f"it has no 'pos', only {', '.join(map(repr, row)) or 'nothing'}"
    elif isinstance(row["pos"], (list, tuple)) and not row["pos"]:
        yield "pos", "'pos' is empty, so no text answers the query"
    for name in ("pos", "neg"):
        texts = row.get(name, ())
        if not isinstance(texts, (list, tuple)):
            yield name, f"{name!r} must be a list of strings, not a {type(texts).__name__}"
            continue
        for i, text in enumerate(texts):
            yield from _text_mistakes(text, f"{name}[{i}]", name)
        yield from _score_mistakes(row, f"{name}_scores", len(texts))
    if ("pos_scores" in row) != ("neg_scores" in row) and row.get("neg"):
        missing = "neg_scores" if "pos_scores" in row else "pos_scores"
        yield missing, f"it has no {missing!r}; a teacher must score both 'pos' and 'neg'"
    for name in _TEXTS:
        if name in row:
            yield from _text_mistakes(row[name], name, name, blank=True)
    if "type" in row and row["type"] not in TYPES:
        yield "type", f"'type' is {row['type']!r}, not one of {', '.join(map(repr, TYPES))}"


def _text_mistakes(text: object, name: str, field: str, blank: bool = False) -> Iterator[tuple[str, str]]:
    try:
        check_text(text, repr(name))
    except InvalidInputError as error:
        yield field, error.finding
    else:
        assert isinstance(text, str)
        if not blank and not text.strip():
            yield field, f"{name!r} is blank"


def _score_mistakes(row: Mapping[str, Any], name: str, texts: int) -> Iterator[tuple[str, str]]:
    scores = row.get(name)
    if scores is None:
        return
    if not isinstance(scores, (list, tuple)):
        yield name, f"{name!r} must be a list of numbers, not a {type(scores).__name__}"
        return
    if len(scores) != texts:
        yield name, f"{name!r} has {len(scores)} scores for {texts} texts"
    for i, score in enumerate(scores):
        if not _is_finite(score):
            yield name, f"'{name}[{i}]' is {score!r}, not a finite number"


def _is_finite(score: object) -> bool:
    try:
        return isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score)
    except OverflowError:  # an integer beyond the range of float
        return False
