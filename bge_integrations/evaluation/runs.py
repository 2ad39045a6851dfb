"""Runs: ranked documents for each query, in memory and in TREC's format."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Real
from pathlib import Path

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.files import write_text
from bge_integrations.validation import check_path


@dataclass(frozen=True)
class Run:
    """The ranked documents that one method returns.

    Attributes:
        name: Name of the method; not blank.
        rankings: (document id, score) pairs by query id, best first. Queries without results are left out.
        seconds: Time per step, if measured: "encode" (the documents), "search", "rerank".

    Raises:
        InvalidInputError: The name is blank, the rankings have the wrong shape, or a ranking is not sorted by score or
            has a document twice.
    """

    name: str
    rankings: dict[str, list[tuple[str, float]]]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidInputError(f"name={self.name!r} must be a str that is not blank", argument="name")
        if not isinstance(self.rankings, Mapping):
            raise InvalidInputError(
                "rankings must be a dictionary, {query id: [(document id, score), ...]}, got "
                f"{type(self.rankings).__name__}",
                argument="rankings",
            )
        for query, ranking in self.rankings.items():
            _check_shape(query, ranking)
            scores = [score for _, score in ranking]
            if not all(map(math.isfinite, scores)) or any(a < b for a, b in pairwise(scores)):
                raise InvalidInputError(
                    f"the scores of query {query!r} must be finite and in descending order", argument="rankings"
                )
            if len({document for document, _ in ranking}) != len(ranking):
                raise InvalidInputError(
                    f"the ranking of query {query!r} has a document twice",
                    argument="rankings",
                    advice="keep its best score",
                )

    @property
    def tag(self) -> str:
        """The name without spaces, which separate the fields of a TREC line."""
        return "".join(self.name.split())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run as `query Q0 document rank score tag` lines, with all digits of the scores.

        Raises:
            InvalidInputError: An id contains whitespace, which the format does not allow, or the file can't be written;
                nothing was written.
        """
        write_text(path, self.to_trec())

    def without_own_ids(self) -> Run:
        """Return the run without documents that have their query's id; in BEIR they are the query itself."""
        rankings = {
            query: [(document, score) for document, score in ranking if document != query]
            for query, ranking in self.rankings.items()
        }
        return replace(self, rankings=rankings)

    def to_trec(self) -> str:
        """Return the lines that `save` writes."""
        lines = []
        for query, ranking in self.rankings.items():
            check_trec_id(query)
            for rank, (document, score) in enumerate(ranking, start=1):
                check_trec_id(document)
                lines.append(f"{query} Q0 {document} {rank} {float(score)!r} {self.tag}\n")
        return "".join(lines)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Run:
        """Read a TREC run written by any program. Documents are sorted by score, and ties by rank.

        Raises:
            InvalidInputError: The file does not exist, is empty, or has a line without six fields or with a rank or
                score that is not a number; the message names the line.
        """
        check_path(path, "path")
        if Path(path).is_dir() or not Path(path).exists():
            raise InvalidInputError(
                f"{str(path)!r} is not a file", argument="path", advice="pass a TREC run, as written by Run.save"
            )
        scored: dict[str, list[tuple[float, int, str]]] = {}
        tag = Path(path).stem
        try:
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        try:
                            query, _, document, rank, score, tag = line.split()
                            scored.setdefault(query, []).append((-float(score), int(rank), document))
                        except ValueError as error:
                            raise InvalidInputError(
                                f"{path}, line {number} must have the form: query Q0 document rank score tag"
                            ) from error
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{path} is not UTF-8 text ({error.reason})") from error
        if not scored:
            raise InvalidInputError(
                f"{path} is empty", argument="path", advice="a run has lines like: query Q0 document rank score tag"
            )
        rankings = {
            query: [(document, -score) for score, _, document in sorted(rows)] for query, rows in scored.items()
        }
        try:
            return cls(tag, rankings)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error.finding}", advice=error.advice) from error


def _check_shape(query: object, ranking: object) -> None:
    if not isinstance(query, str):
        raise InvalidInputError(f"rankings has the query id {query!r}", argument="rankings", advice="use a str")
    if not isinstance(ranking, (list, tuple)):
        raise InvalidInputError(
            f"the ranking of query {query!r} must be a list, [(document id, score), ...], got {type(ranking).__name__}",
            argument="rankings",
        )
    for pair in ranking:
        match pair:
            case [str(), float() | Real()]:  # float first: checking an abstract class is slow
                pass
            case _:
                raise InvalidInputError(
                    f"the ranking of query {query!r} has {pair!r}",
                    argument="rankings",
                    advice="use pairs of a str and a number, (document id, score)",
                )


def check_run(run: object) -> None:
    """Raise InvalidInputError unless this is a `Run`."""
    if not isinstance(run, Run):
        raise InvalidInputError(
            f"run must be a Run, got {type(run).__name__}",
            argument="run",
            advice="pass one such as report['dense'].run",
        )


def check_trec_id(key: str) -> None:
    """Raise InvalidInputError if the id contains whitespace, which separates the fields of a TREC line."""
    if key.split() != [key]:
        raise InvalidInputError(
            f"the id {key!r} contains whitespace, which TREC's format does not allow", advice="rename it"
        )
