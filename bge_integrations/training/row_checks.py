"""Check rows of training data, and collect all their mistakes before any is reported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from bge_integrations.errors import InvalidInputError, TrainingDataError
from bge_integrations.reporting import warn_caller
from bge_integrations.training.rows import LAYOUT_ADVICE, TYPES, Location, RowMistake, TrainingRow, TrainingRows
from bge_integrations.validation import check_text

#: Maximum number of mistakes that are kept for the error.
_KEPT = 100
_FIELDS = tuple(field.name for field in dataclasses.fields(TrainingRow))
_TEXTS = ("prompt", "query_prompt", "passage_prompt", "category")
_SIZES = ("batch_size", "train_group_size")


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
            raise TrainingDataError(tuple(self._mistakes), self._count, advice="correct or remove these lines or files")
        if not self._rows:
            raise InvalidInputError("there is no row to train on", argument="data", advice=LAYOUT_ADVICE)
        for name, location in self._ignored.items():
            warn_caller(f"the field {name!r} is ignored (first in {location})", UserWarning)
        return TrainingRows(self._rows, self._locations)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
    for name in _SIZES:
        if name in row and not (type(row[name]) is int and row[name] > 0):
            yield name, f"{name!r} is {row[name]!r}, not a whole number of at least 1"
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
