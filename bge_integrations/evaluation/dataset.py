"""Queries, documents and judgements: from BEIR's folders or the caller's own dictionaries."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_text

_LAYOUT = "a data set is a folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv"
#: The measures count the documents of each grade up to the highest.
_HIGHEST_GRADE = 1000


class Dataset:
    """Queries, the documents to find, and which of them answer which query.

    Args:
        queries: Text by query id; none may be blank.
        documents: By document id, a text or {"title": ..., "text": ...}, of which BEIR's text is made: the title, a
            space and the text, stripped. The title may be missing; other fields are not read. Documents may be empty.
        qrels: By query id and document id, the grade: a whole number, above 0 for a document that answers. Documents
            that are not named count as 0, as does a negative grade.
        name: Shown in reports.

    Attributes:
        queries, documents, qrels, name: As above, with each document as one text.

    Raises:
        InvalidInputError: A dictionary has another shape, an id or a text can't be used, a judgement names an id that
            is not there, a grade is no whole number up to 1000, or no grade is above 0.
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
                raise InvalidInputError(f"query {key!r} is blank; leave it out, or write what is asked")
        self._check_judgements()

    @classmethod
    def read(cls, folder: str | os.PathLike[str], split: str = "test") -> Dataset:
        """Read a folder in BEIR's layout (https://github.com/beir-cellar/beir).

        corpus.jsonl has one {"_id": ..., "title": ..., "text": ...} a line (the title may be missing), queries.jsonl
        one {"_id": ..., "text": ...}, and qrels/<split>.tsv query id, document id and grade between tabs, with or
        without a first line that names them.

        Raises:
            InvalidInputError: A file is missing or can't be read; the message has the file and the line.
        """
        if not os.fspath(folder):  # pathlib would take the current folder
            raise InvalidInputError(f"the folder's name is empty; {_LAYOUT}")
        place = Path(folder)
        if not place.is_dir():
            raise InvalidInputError(f"{place} is no folder; {_LAYOUT}")
        qrels = place / "qrels" / f"{split}.tsv"
        splits = sorted(file.stem for file in (place / "qrels").glob("*.tsv"))
        if splits and split not in splits:
            raise InvalidInputError(f"{place} has no split {split!r}; it has {', '.join(map(repr, splits))}")
        for file in (place / "corpus.jsonl", place / "queries.jsonl", qrels):
            if not file.is_file():
                raise InvalidInputError(f"{file} is missing; {_LAYOUT}")
        documents = {
            key: {"title": row.get("title") or "", "text": row["text"]} for key, row in _rows(place / "corpus.jsonl")
        }
        queries = {key: row["text"] for key, row in _rows(place / "queries.jsonl")}
        judgements = _judgements(qrels, queries.keys() | documents.keys())
        try:
            return cls(queries=queries, documents=documents, qrels=judgements, name=place.resolve().name)
        except InvalidInputError as error:
            raise InvalidInputError(f"{place}: {error}") from error

    @property
    def judged(self) -> list[str]:
        """Ids of the queries that have judgements, in the order of `queries`: those that are run and measured."""
        return [key for key in self.queries if key in self.qrels]

    def only(self, query_ids: Collection[str]) -> Dataset:
        """The same documents with the judgements of these queries alone."""
        if isinstance(query_ids, str) or not isinstance(query_ids, Collection):
            raise InvalidInputError(f"query_ids must be a list of ids, got {type(query_ids).__name__}")
        chosen = set(query_ids)
        qrels = {key: grades for key, grades in self.qrels.items() if key in chosen}
        return Dataset(queries=self.queries, documents=self.documents, qrels=qrels, name=self.name)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self.documents)} documents, {len(self.judged)} judged queries)"

    def _check_judgements(self) -> None:
        for query, grades in self.qrels.items():
            if query not in self.queries:
                raise InvalidInputError(f"the judgements name query {query!r}, which is not among the queries")
            for document in grades:
                if document not in self.documents:
                    raise InvalidInputError(
                        f"the judgements of query {query!r} name document {document!r}, which is not there"
                    )
        if not any(grade > 0 for grades in self.qrels.values() for grade in grades.values()):
            raise InvalidInputError(
                "no judgement is above 0, so there is nothing to find; say in qrels which documents answer"
            )


def check_data(data: object) -> None:
    """Raise InvalidInputError unless this is a data set."""
    if not isinstance(data, Dataset):
        raise InvalidInputError(f"the data is of type {type(data).__name__}; pass a Dataset, or Dataset.read(folder)")


def _check_mapping(given: object, argument: str, shape: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{argument} must be a dictionary, {shape}, got {type(given).__name__}")


def _text_of(key: str, document: object) -> str:
    _check_id(key, "document")
    if isinstance(document, Mapping):
        if "text" not in document:
            fields = ", ".join(map(repr, document)) or "none"
            raise InvalidInputError(f"document {key!r} has no field 'text', only {fields}; an empty text is ''")
        for field in ("title", "text"):
            check_text(document.get(field, ""), f"the {field} of document {key!r}")
        return f"{document.get('title', '')} {document['text']}".strip()
    check_text(document, f"document {key!r}")
    assert isinstance(document, str)
    return document


def _grade_of(grade: object, query: str, document: str) -> int:
    if not isinstance(grade, Integral):  # numpy's whole numbers too
        raise InvalidInputError(
            f"the grade of document {document!r} for query {query!r} is {grade!r}; grades are whole numbers"
        )
    if int(grade) > _HIGHEST_GRADE:
        raise InvalidInputError(
            f"the grade of document {document!r} for query {query!r} is {grade}; the highest is {_HIGHEST_GRADE}"
        )
    return int(grade)


def _check_id(key: object, kind: str) -> None:
    if not isinstance(key, str) or not key:
        raise InvalidInputError(f"a {kind} has the id {key!r}; ids are texts of one character at least")
    check_text(key, f"the id {key!r} of a {kind}")


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank and its place, as messages name it."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield f"{file}, line {number}", line
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text ({error.reason}); convert it") from error


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's id and the row."""
    seen: set[str] = set()
    for place, line in _lines(file):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{place} is no JSON: {error.msg} at character {error.pos + 1}") from error
        except ValueError as error:  # Python reads no integers of thousands of digits
            raise InvalidInputError(
                f"{place} has a number of too many digits; leave it out, or make it a text"
            ) from error
        except RecursionError as error:
            raise InvalidInputError(f"{place} is no row: its JSON is nested too deeply") from error
        if not isinstance(row, dict) or not isinstance(row.get("_id"), str) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f'{place} must be an object with "_id" and "text", both texts')
        if row["_id"] in seen:
            raise InvalidInputError(f"{place} has the id {row['_id']!r} of an earlier line; make ids unique")
        seen.add(row["_id"])
        yield row["_id"], row


def _judgements(file: Path, known: Collection[str]) -> dict[str, dict[str, int]]:
    """The grades; a first line without a grade names the columns, unless it has one of the known ids."""
    qrels: dict[str, dict[str, int]] = {}
    first = True
    for place, line in _lines(file):
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 3:
            raise InvalidInputError(f"{place} must have query id, document id and grade, with tabs between them")
        query, document, written = (field.strip() for field in fields)
        header = first and not _is_number(written) and query not in known and document not in known
        first = False
        if header:
            continue
        try:
            grade = int(written)
        except ValueError as error:
            raise InvalidInputError(f"{place} has the grade {written!r}; grades are whole numbers") from error
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InvalidInputError(
                f"{place} judges document {document!r} for query {query!r} again, with another grade"
            )
    return qrels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
