"""Training data in other layouts: sentence-transformers' columns and BEIR's folders."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.dataset import Dataset
from bge_integrations.optional import import_library
from bge_integrations.reporting import warn_caller
from bge_integrations.spelling import spelled
from bge_integrations.training.row_checks import RowCollector
from bge_integrations.training.row_files import find_files, json_rows, read_rows
from bge_integrations.training.rows import Location, TrainingData, TrainingRow, TrainingRows

if TYPE_CHECKING:
    import datasets

_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
#: Names of columns, in the order in which they are looked for.
_QUERY = ("query", "anchor", "question", "sentence1", "sentence_A", "text1")
_TEXT = ("positive", "answer", "passage", "document", "documents", "text", "sentence2", "sentence_B", "text2")
_LABEL = ("label", "labels", "score", "scores", "similarity_score")
_NEGATIVE = re.compile(r"negatives?(_\d+)?")


def read_training_data(
    source: TrainingData | datasets.Dataset, *, split: str = "train", positive_from: float | None = None
) -> TrainingRows:
    """Read and check training data in any layout; rows with the same query are merged unless they are FlagEmbedding's.

    Args:
        source: As in `read_rows`, or
            - JSONL, CSV, TSV or Parquet files, or a `datasets.Dataset`, with sentence-transformers' columns: anchor (or
              query, question, sentence1), positive (or answer, passage, sentence2), any number of negative columns, and
              label or score. A label is 0 or 1; a list of scores is a teacher's, for the positive and the negatives.
            - a folder in BEIR's layout: texts with a grade above 0 are positives, and those with 0 or less negatives.
        split: For BEIR's layout, the qrels file to read.
        positive_from: The lowest score of a positive, if pairs have scores instead of labels. They then become teacher
            scores.

    Raises:
        TrainingDataError: As in `read_rows`.
        InvalidInputError: As in `read_rows` and `Dataset.read`, or columns are not recognised.
        ImportError: A Parquet file is read without the extra "train".
    """
    collector = RowCollector()
    if isinstance(source, TrainingRows) or _is_rows(source):
        return read_rows(source)
    if hasattr(source, "column_names"):
        columns: Any = source
        _add_columns(((Location(None, i), row) for i, row in enumerate(columns)), collector, positive_from)
        return collector.finish()
    if isinstance(source, (str, os.PathLike)):
        source = [os.fspath(source)]
    if not isinstance(source, Sequence):
        raise InvalidInputError(
            f"data must be a path, a list of paths, a Dataset or a list of TrainingRow, got {type(source).__name__}",
            argument="data",
            advice="pass one split of a DatasetDict" if isinstance(source, Mapping) else None,
        )
    for path in source:
        if isinstance(path, (str, os.PathLike)) and _is_beir(Path(path)):
            _add_beir(Path(path), split, collector)
            continue
        for file in find_files([path], _SUFFIXES):
            rows = read_table(file, collector)
            if file.suffix in (".json", ".jsonl") and not _has_columns(file):
                for location, row in rows:
                    collector.add(row, location)
            else:
                _add_columns(rows, collector, positive_from)
    return collector.finish()


def _is_rows(source: object) -> bool:
    return isinstance(source, Sequence) and bool(source) and all(isinstance(row, TrainingRow) for row in source)


def _is_beir(path: Path) -> bool:
    return (path / "corpus.jsonl").is_file() and (path / "queries.jsonl").is_file()


def _add_beir(folder: Path, split: str, collector: RowCollector) -> None:
    data = Dataset.read(folder, split)
    queries = folder / "queries.jsonl"
    lines = {row["_id"]: line for line, row in json_rows(queries, collector)}
    without = 0
    for key in data.judged:
        grades = data.qrels[key]
        pos = [data.documents[document] for document, grade in grades.items() if grade > 0]
        neg = [data.documents[document] for document, grade in grades.items() if grade <= 0]
        if pos:
            collector.add({"query": data.queries[key], "pos": pos, "neg": neg}, Location(queries, lines[key]))
        else:
            without += 1
    _warn_without_positives(without)


def _has_columns(file: Path) -> bool:
    """Return whether the first line of a JSONL file has sentence-transformers' columns instead of `pos`."""
    _, first = next(json_rows(file, RowCollector()), (0, {}))
    return "pos" not in first and any(name in first for name in _TEXT)


def read_table(file: Path, collector: RowCollector) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Yield the location and the columns of each row of a JSONL, CSV, TSV or Parquet file.

    Raises:
        InvalidInputError: The file is damaged, or of another kind.
        ImportError: A Parquet file is read without the extra "train".
    """
    find_files([file], _SUFFIXES)
    if file.suffix == ".parquet":
        rows = _parquet_rows(file, collector)
    elif file.suffix in (".csv", ".tsv"):
        rows = _csv_rows(file, collector)
    else:
        rows = json_rows(file, collector)
    return ((Location(file, line), row) for line, row in rows)


def _parquet_rows(file: Path, collector: RowCollector) -> Iterator[tuple[int, dict[str, Any]]]:
    parquet = import_library("pyarrow.parquet", "train", "reading Parquet files")
    try:
        with parquet.ParquetFile(file) as opened:
            if not opened.metadata.num_rows:
                collector.reject(Location(file, 0), None, "it has no row")
            rows = (row for batch in opened.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (ValueError, OSError, NotImplementedError) as error:  # includes pyarrow's errors
        raise InvalidInputError(f"{file} is not a readable Parquet file ({error})", argument="data") from error


def _csv_rows(file: Path, collector: RowCollector) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    collector.reject(Location(file, line), None, "it has more or fewer cells than the header")
                else:
                    yield line, {name: _number(cell) if name in _LABEL else cell or None for name, cell in row.items()}
            if reader.line_num <= 1:
                collector.reject(Location(file, 0), None, "it has no row below a header")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text ({error.reason})", advice="convert it") from error
    except csv.Error as error:
        collector.reject(Location(file, reader.line_num), None, f"it is not CSV ({error})")


def _number(text: str) -> object:
    """Return the number or the JSON list in a cell, or the text if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@dataclass
class _Merged:
    """The rows of one query. The score of each text is None if it has none."""

    location: Location
    pos: dict[str, float | None] = field(default_factory=dict)
    neg: dict[str, float | None] = field(default_factory=dict)


def _add_columns(
    rows: Iterable[tuple[Location, Mapping[str, Any]]], collector: RowCollector, positive_from: float | None
) -> None:
    """Add rows with sentence-transformers' columns, those of each query as one."""
    merged: dict[str, _Merged] = {}
    for location, row in rows:
        query = row[_find(row, _QUERY, "query", location)]
        text = row[_find(row, _TEXT, "positive", location)]
        label = next((row[name] for name in _LABEL if row.get(name) is not None), None)
        negatives = [each for name in row if _NEGATIVE.fullmatch(name) for each in _listed(row[name])]
        if not collector.check({"query": query, "pos": _listed(text), "neg": negatives}, location):
            continue
        try:
            positive, scores = _judged(text, negatives, label, positive_from)
        except InvalidInputError as error:
            collector.reject(location, "label", error.finding)
            continue
        kept = merged.setdefault(query, _Merged(location))
        for each, is_positive, score in zip([*_listed(text), *negatives], positive, scores, strict=True):
            (kept.pos if is_positive else kept.neg).setdefault(each, score)
    for query, kept in merged.items():
        if kept.pos:
            collector.add(_fields(query, kept), kept.location)
    _warn_without_positives(sum(not kept.pos for kept in merged.values()))


def _find(row: Mapping[str, Any], names: Sequence[str], meaning: str, location: Location) -> str:
    for name in names:
        if name in row:
            return name
    raise InvalidInputError(
        f"{location} has no column for the {meaning}, only {', '.join(map(repr, row)) or 'none'}",
        argument="data",
        advice=f"name it {names[0]!r}",
    )


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _judged(
    text: object, negatives: list[str], label: object, positive_from: float | None
) -> tuple[list[bool], list[float | None]]:
    """Return for each text, negatives last, whether it is a positive, and its teacher score.

    Raises:
        InvalidInputError: The labels do not fit the texts, or are scores without a `positive_from`.
    """
    listed = len(_listed(text))
    texts = listed + len(negatives)
    if label is None:
        return [True] * listed + [False] * len(negatives), [None] * texts
    labels = _listed(label)
    if len(labels) != texts:
        raise InvalidInputError(f"it has {len(labels)} labels or scores for {texts} texts")
    if not all(isinstance(each, (int, float)) for each in labels):
        raise InvalidInputError(f"the label or score is {label!r}, not a number")
    if negatives:
        return [True] * listed + [False] * len(negatives), labels
    if positive_from is not None:
        return [each >= positive_from for each in labels], labels
    if not all(each in (0, 1) for each in labels):
        raise InvalidInputError(f"the label is {label!r}, neither 0 nor 1; for scores, pass {spelled('positive_from')}")
    return [each == 1 for each in labels], [None] * texts


def _fields(query: str, merged: _Merged) -> dict[str, Any]:
    fields: dict[str, Any] = {"query": query, "pos": list(merged.pos), "neg": list(merged.neg)}
    scores = [*merged.pos.values(), *merged.neg.values()]
    if all(score is not None for score in scores):
        fields |= {"pos_scores": list(merged.pos.values()), "neg_scores": list(merged.neg.values())}
    return fields


def _warn_without_positives(queries: int) -> None:
    if queries:
        warn_caller(f"{queries} queries without any positive were left out", UserWarning)
