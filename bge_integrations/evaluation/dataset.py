"""Data sets of queries, documents and judgements, from dictionaries or folders in BEIR's layout."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_path, check_text, has_words

_LAYOUT = "a data set is a folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv"
#: Highest grade allowed: the measures keep a counter for every grade up to the highest.
_HIGHEST_GRADE = 1000


class Dataset:
    """Queries, documents, and judgements of which documents answer which query.

    Args:
        queries: Texts by query id; a text must not be blank.
        documents: By document id, a text or {"title": ..., "text": ...}, which is joined as in BEIR: the title, a space
            and the text, stripped. The title is optional, other fields are ignored, and a document may be empty.
        qrels: Grades by query id and document id: a whole number, above 0 if the document answers the query. Documents
            without a grade count as 0, and so do negative grades.
        name: Shown in reports.

    Attributes:
        queries, documents, qrels, name: As above, with each document as one text.

    Raises:
        InvalidInputError: A dictionary has the wrong shape, an id or a text is invalid, a judgement names an unknown
            id, a grade is not a whole number up to 1000, or no grade is above 0.
    """

    def __init__(
        self,
        *,
        queries: Mapping[str, str],
        documents: Mapping[str, str | Mapping[str, str]],
        qrels: Mapping[str, Mapping[str, int]],
        name: str = "data set",
    ) -> None:
        _check_mapping(queries, "queries", "{query id: text}")
        _check_mapping(documents, "documents", "{document id: text}")
        _check_mapping(qrels, "qrels", "{query id: {document id: grade}}")
        for query, grades in qrels.items():
            _check_mapping(grades, f"the judgements of query {query!r}", "{document id: grade}")
        self.name = name
        self.queries = dict(queries)
        self.documents = {key: _text_of(key, document) for key, document in documents.items()}
        self.qrels = {
            query: {document: _grade_of(grade, query, document) for document, grade in grades.items()}
            for query, grades in qrels.items()
            if grades
        }
        for key, text in self.queries.items():
            _check_id(key, "query")
            check_text(text, f"query {key!r}")
            if not text.strip():
                raise InvalidInputError(
                    f"query {key!r} is blank", argument="queries", advice="remove it, or add its text"
                )
        self._check_judgements()

    @classmethod
    def read(cls, folder: str | os.PathLike[str], split: str = "test") -> Dataset:
        """Read a folder in BEIR's layout (https://github.com/beir-cellar/beir).

        Each line of corpus.jsonl is {"_id": ..., "title": ..., "text": ...} (the title is optional), and each line of
        queries.jsonl {"_id": ..., "text": ...}. The lines of qrels/<split>.tsv are query id, document id and grade,
        separated by tabs, with or without a header.

        Raises:
            InvalidInputError: A file is missing or invalid; the message names the file and the line.
        """
        if not check_path(folder, "folder"):  # Path("") is the current folder
            raise InvalidInputError("the folder's name is empty", argument="folder", advice=_LAYOUT)
        path = Path(folder)
        if not path.is_dir():
            raise InvalidInputError(f"{path} is not a folder", argument="folder", advice=_LAYOUT)
        qrels = path / "qrels" / f"{split}.tsv"
        splits = sorted(file.stem for file in (path / "qrels").glob("*.tsv"))
        if splits and split not in splits:
            raise InvalidInputError(
                f"{path} has no split {split!r}", argument="split", advice=f"use {', '.join(map(repr, splits))}"
            )
        for file in (path / "corpus.jsonl", path / "queries.jsonl", qrels):
            if not file.is_file():
                raise InvalidInputError(f"{file} is missing", advice=_LAYOUT)
        documents = {
            key: {"title": row.get("title") or "", "text": row["text"]} for key, row in _rows(path / "corpus.jsonl")
        }
        queries = {key: row["text"] for key, row in _rows(path / "queries.jsonl")}
        judgements = _judgements(qrels, queries.keys() | documents.keys())
        try:
            return cls(queries=queries, documents=documents, qrels=judgements, name=path.resolve().name)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error.finding}", advice=error.advice) from error

    @property
    def searchable(self) -> list[str]:
        """The sorted ids of the documents with words. No search finds the others, as in an M3Index."""
        return sorted(key for key, text in self.documents.items() if has_words(text))

    @property
    def judged(self) -> list[str]:
        """Ids of the queries that have judgements, in the order of `queries`. Only these are run and measured."""
        return [key for key in self.queries if key in self.qrels]

    def only(self, query_ids: Collection[str]) -> Dataset:
        """Return the data set with only the judgements of these queries."""
        if isinstance(query_ids, str) or not isinstance(query_ids, Collection):
            raise InvalidInputError(
                f"query_ids must be a list of ids, got {type(query_ids).__name__}", argument="query_ids"
            )
        chosen = set(query_ids)
        qrels = {key: grades for key, grades in self.qrels.items() if key in chosen}
        return Dataset(queries=self.queries, documents=self.documents, qrels=qrels, name=self.name)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self.documents)} documents, {len(self.judged)} judged queries)"

    def _check_judgements(self) -> None:
        for query, grades in self.qrels.items():
            if query not in self.queries:
                raise InvalidInputError(f"qrels has the query {query!r}, which is not in queries", argument="qrels")
            for document in grades:
                if document not in self.documents:
                    raise InvalidInputError(
                        f"qrels has the document {document!r} for query {query!r}, which is not in documents",
                        argument="qrels",
                    )
        if not any(grade > 0 for grades in self.qrels.values() for grade in grades.values()):
            raise InvalidInputError(
                "no grade is above 0, so no query has an answer",
                argument="qrels",
                advice="grade the documents that answer with 1 or more",
            )


def check_data(data: object) -> None:
    """Raise InvalidInputError unless this is a data set."""
    if not isinstance(data, Dataset):
        raise InvalidInputError(
            f"data must be a Dataset, got {type(data).__name__}",
            argument="data",
            advice="create one with Dataset(...) or Dataset.read(folder)",
        )


def _check_mapping(given: object, argument: str, shape: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{argument} must be a dictionary, {shape}, got {type(given).__name__}")


def _text_of(key: str, document: object) -> str:
    _check_id(key, "document")
    if isinstance(document, Mapping):
        if "text" not in document:
            fields = ", ".join(map(repr, document)) or "none"
            raise InvalidInputError(
                f"document {key!r} has no field 'text', only {fields}",
                argument="documents",
                advice="add it; it may be empty",
            )
        for field in ("title", "text"):
            check_text(document.get(field, ""), f"the {field} of document {key!r}")
        return f"{document.get('title', '')} {document['text']}".strip()
    check_text(document, f"document {key!r}")
    assert isinstance(document, str)
    return document


def _grade_of(grade: object, query: str, document: str) -> int:
    if not isinstance(grade, Integral):  # includes numpy integers
        raise InvalidInputError(
            f"the grade of document {document!r} for query {query!r} is {grade!r}",
            argument="qrels",
            advice="use a whole number",
        )
    if int(grade) > _HIGHEST_GRADE:
        raise InvalidInputError(
            f"the grade of document {document!r} for query {query!r} is {grade}",
            argument="qrels",
            advice=f"use at most {_HIGHEST_GRADE}",
        )
    return int(grade)


def _check_id(key: object, kind: str) -> None:
    if not isinstance(key, str) or not key:
        raise InvalidInputError(f"a {kind} has the id {key!r}", advice="use a str that is not empty")
    check_text(key, f"the id {key!r} of a {kind}")


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the location (file and number) and the text of each line that is not blank."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield f"{file}, line {number}", line
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text ({error.reason})", advice="convert it") from error


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the id of each row and the row."""
    seen: set[str] = set()
    for location, line in _lines(file):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{location} is not JSON: {error.msg} at character {error.pos + 1}") from error
        except ValueError as error:  # Python limits the digits of an integer
            raise InvalidInputError(
                f"{location} has a number with too many digits", advice="remove it, or make it a string"
            ) from error
        except RecursionError as error:
            raise InvalidInputError(f"{location} has JSON that is nested too deeply") from error
        if not isinstance(row, dict) or not isinstance(row.get("_id"), str) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f'{location} must be an object with "_id" and "text", both strings')
        if row["_id"] in seen:
            raise InvalidInputError(
                f"{location} has the same id {row['_id']!r} as an earlier line", advice="make the ids unique"
            )
        seen.add(row["_id"])
        yield row["_id"], row


def _judgements(file: Path, known: Collection[str]) -> dict[str, dict[str, int]]:
    """Return the grades. A first line without a grade or a known id is the header."""
    qrels: dict[str, dict[str, int]] = {}
    first = True
    for location, line in _lines(file):
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 3:
            raise InvalidInputError(f"{location} must be query id, document id and grade, separated by tabs")
        query, document, written = (field.strip() for field in fields)
        header = first and not _is_number(written) and query not in known and document not in known
        first = False
        if header:
            continue
        try:
            grade = int(written)
        except ValueError as error:
            raise InvalidInputError(f"{location} has the grade {written!r}", advice="use a whole number") from error
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InvalidInputError(
                f"{location} has another grade for document {document!r} and query {query!r} than an earlier line",
                advice="remove one of the two",
            )
    return qrels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
