"""Searching an index: the arguments of a search, and the flow from queries to hits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bge_integrations.index.batches import batches_of
from bge_integrations.index.candidates import find_candidates, rank
from bge_integrations.index.flow import Encode
from bge_integrations.index.records import Hit, from_payload
from bge_integrations.index.search_arguments import Search
from bge_integrations.index.substrings import resolve
from bge_integrations.index.vectors import size_of, vectors_of
from bge_integrations.outputs import MultiVectors
from bge_integrations.scoring import max_sim

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Input
    from bge_integrations.index.candidates import Scores
    from bge_integrations.index.engine import Engine
    from bge_integrations.index.flow import Flow
    from bge_integrations.index.store import Store
    from bge_integrations.index.vectors import Vectors
    from bge_integrations.outputs import Embeddings


#: Maximum number of candidates per request, over all its queries.
_CANDIDATES_AT_ONCE = 10_000
#: Settings to encode candidates with if their multi-vectors are not stored.
_RECOMPUTED: dict[str, Any] = {"kind": "passage", "dense": False, "multi_vector": True, "on_truncate": "ignore"}


class Searcher:
    """Searches the store of an index.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored = store.shared.manifest.stored

    def search(self, queries: Iterable[Input], search: Search) -> Flow[list[list[Hit]]]:
        """Find the hits for each query."""
        needed = {name: name in search.needed for name in ("dense", "sparse", "multi_vector")}
        encoded = yield Encode(queries, {"kind": "query", **needed})
        answers = self._answer_all(encoded, search)
        if self._recomputes(search):
            texts = list(dict.fromkeys(text for answer in answers for text in answer.texts))
            passages = (yield Encode(texts, _RECOMPUTED)).multi_vector
            assert encoded.multi_vector is not None
            assert passages is not None
            by_text = {text: passages[i] for i, text in enumerate(texts)}
            for answer, query in zip(answers, encoded.multi_vector, strict=True):
                answer.add_multi_vector_scores(query, by_text, search)
        return [answer.hits() for answer in answers]

    def search_by_vector(self, dense: NDArray[np.float32], search: Search) -> list[Hit]:
        """Find the hits for one dense vector."""
        search = replace(search, condition=resolve(search.condition, self._store))
        with self._store.read() as engine:
            return self._answer(engine, [{"dense": dense}], search)[0].hits()

    def _recomputes(self, search: Search) -> bool:
        """Whether to compute the multi-vectors of the candidates, because they are not stored."""
        return "multi_vector" in search.weights and "multi_vector" not in self._stored

    def _answer_all(self, encoded: Embeddings, search: Search) -> list[_Answer]:
        """Answer the queries in batches, so that writers do not wait for all of them."""
        search = replace(search, condition=resolve(search.condition, self._store))
        engine = self._store.engine
        at_once = min(engine.queries_at_once, max(1, _CANDIDATES_AT_ONCE // search.candidates))
        answers: list[_Answer] = []
        for queries in batches_of(_query_vectors(encoded), size_of, engine.largest_request, at_once):
            with self._store.read() as engine:
                answers += self._answer(engine, queries, search)
        return answers

    def _answer(self, engine: Engine, queries: Sequence[Vectors], search: Search) -> list[_Answer]:
        queries = [{r: vector for r, vector in query.items() if r in self._stored} for query in queries]
        recomputes = self._recomputes(search)
        answers = []
        for candidates in find_candidates(engine, queries, search):
            ranked = [] if recomputes else rank(candidates.scores, search)
            points = candidates.points if recomputes else [point for point, _ in ranked]
            scores: Scores = {r: {p: by_point[p] for p in points} for r, by_point in candidates.scores.items()}
            answers.append(_Answer(points, scores, ranked))
        needed = list(dict.fromkeys(point for answer in answers for point in answer.points))
        payloads = engine.fetch(needed) if needed else {}
        for answer in answers:
            answer.payloads = {point: payloads[point] for point in answer.points if point in payloads}
        return answers


@dataclass
class _Answer:
    """The answer to one query, which may still lack multi-vector scores.

    Attributes:
        points: The points that can be hits.
        scores: Their scores.
        ranked: The best points and their scores.
        payloads: The payloads of the points, except those deleted in the meantime.
    """

    points: list[str]
    scores: Scores
    ranked: list[tuple[str, float]]
    payloads: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [payload["text"] for payload in self.payloads.values()]

    def add_multi_vector_scores(
        self, query: NDArray[np.float32], passages: Mapping[str, NDArray[np.float32]], search: Search
    ) -> None:
        """Add scores by the multi-vectors of the candidates' texts, and rank the candidates."""
        for r, by_point in self.scores.items():
            self.scores[r] = {point: score for point, score in by_point.items() if point in self.payloads}
        width = query.shape[1]
        rows = MultiVectors.from_rows([passages[text] for text in self.texts], width)
        scores = max_sim(MultiVectors.from_rows([query], width), rows)[0]
        self.scores["multi_vector"] = dict(zip(self.payloads, scores.tolist(), strict=True))
        self.ranked = rank(self.scores, search)

    def hits(self) -> list[Hit]:
        return [
            Hit(
                **vars(from_payload(self.payloads[point])),
                score=score,
                scores={name: scores[point] for name, scores in self.scores.items()},
            )
            for point, score in self.ranked
            if point in self.payloads
        ]


def _query_vectors(encoded: Embeddings) -> Iterator[Vectors]:
    rows = next(part for part in (encoded.dense, encoded.sparse, encoded.multi_vector) if part is not None)
    return (vectors_of(encoded, i) for i in range(len(rows)))
