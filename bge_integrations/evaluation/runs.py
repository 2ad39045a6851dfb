"""A run: the documents that a method found for each query, best first, in memory and in TREC's format."""

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


@dataclass(frozen=True)
class Run:
    """What a method found.

    Attributes:
        name: The method's; not blank.
        rankings: By query id, (document id, score) pairs, best first. A query for which nothing was found is left out.
        seconds: What took how long, where that was measured: "encode" the documents, "search", "rerank".

    Raises:
        InvalidInputError: The name is blank, the rankings have another shape, or one is not in the order of its
            scores, or names a document twice.
    """

    name: str
    rankings: dict[str, list[tuple[str, float]]]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidInputError(f"a run is named {self.name!r}; give it a name that is not blank")
        if not isinstance(self.rankings, Mapping):
            raise InvalidInputError(
                "the rankings must be a dictionary, {query id: [(document id, score), ...]}, got "
                f"{type(self.rankings).__name__}"
            )
        for query, ranking in self.rankings.items():
            _check_shape(query, ranking)
            scores = [score for _, score in ranking]
            if not all(map(math.isfinite, scores)) or any(a < b for a, b in pairwise(scores)):
                raise InvalidInputError(f"the scores of query {query!r} must be finite and fall from first to last")
            if len({document for document, _ in ranking}) != len(ranking):
                raise InvalidInputError(
                    f"a document stands twice in the ranking of query {query!r}; keep its best place"
                )

    @property
    def tag(self) -> str:
        """The name without its spaces, since a TREC line is cut at them."""
        return "".join(self.name.split())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `query Q0 document rank score tag` lines; scores have all their digits.

        Raises:
            InvalidInputError: An id has whitespace, which the format can't hold, or no file can be written there;
                nothing was written.
        """
        write_text(path, self.to_trec())

    def without_own_ids(self) -> Run:
        """The same without the documents that have their query's own id, which BEIR takes for the query itself."""
        rankings = {
            query: [(document, score) for document, score in ranking if document != query]
            for query, ranking in self.rankings.items()
        }
        return replace(self, rankings=rankings)

    def to_trec(self) -> str:
        """The lines that `save` writes."""
        lines = []
        for query, ranking in self.rankings.items():
            check_trec_id(query)
            for rank, (document, score) in enumerate(ranking, start=1):
                check_trec_id(document)
                lines.append(f"{query} Q0 {document} {rank} {float(score)!r} {self.tag}\n")
        return "".join(lines)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Run:
        """Read a TREC run of any program; the order is that of the scores, and among equal ones that of the ranks.

        Raises:
            InvalidInputError: There is no such file, it is empty, or a line has not six fields, or rank or score is no
                number; the message has the line.
        """
        if Path(path).is_dir() or not Path(path).exists():
            raise InvalidInputError(f"{str(path)!r} is no file; Run.save writes one")
        found: dict[str, list[tuple[float, int, str]]] = {}
        tag = Path(path).stem
        try:
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        try:
                            query, _, document, rank, score, tag = line.split()
                            found.setdefault(query, []).append((-float(score), int(rank), document))
                        except ValueError as error:
                            raise InvalidInputError(
                                f"{path}, line {number} must be: query Q0 document rank score tag"
                            ) from error
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{path} is not UTF-8 text ({error.reason})") from error
        if not found:
            raise InvalidInputError(f"{path} is empty; a run has lines: query Q0 document rank score tag")
        rankings = {query: [(document, -score) for score, _, document in sorted(rows)] for query, rows in found.items()}
        try:
            return cls(tag, rankings)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from error


def _check_shape(query: object, ranking: object) -> None:
    if not isinstance(query, str):
        raise InvalidInputError(f"the rankings have the query id {query!r}; ids are texts")
    if not isinstance(ranking, (list, tuple)):
        raise InvalidInputError(
            f"the ranking of query {query!r} must be a list, [(document id, score), ...], got {type(ranking).__name__}"
        )
    for pair in ranking:
        match pair:
            case [str(), float() | Real()]:  # a float first: abstract classes are slow to ask
                pass
            case _:
                raise InvalidInputError(
                    f"the ranking of query {query!r} has {pair!r}; each must be a text and a number, "
                    "(document id, score)"
                )


def check_run(run: object) -> None:
    """Raise InvalidInputError unless this is a run."""
    if not isinstance(run, Run):
        raise InvalidInputError(f"the run is of type {type(run).__name__}; pass a Run, such as report['dense'].run")


def check_trec_id(key: str) -> None:
    """Raise InvalidInputError for an id that a TREC line can't hold, since it is cut at spaces."""
    if key.split() != [key]:
        raise InvalidInputError(f"the id {key!r} has whitespace, which TREC's format can't hold; rename it")
