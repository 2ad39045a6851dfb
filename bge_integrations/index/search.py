"""From a query's vectors to ranked points: candidates, their exact scores, and the fusion of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from bge_integrations.index.engine import Leg
from bge_integrations.scoring import (
    REPRESENTATIONS,
    Mode,
    Representation,
    Weights,
    reciprocal_rank_fusion,
    weights_by_name,
)
from bge_integrations.validation import check_choice, check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import Engine
    from bge_integrations.index.filters import Condition
    from bge_integrations.outputs import Embeddings, SparseVector

Fusion = Literal["weighted", "rrf"]
#: Scores by representation and point.
Parts = dict[Representation, dict[str, float]]
QueryVectors = dict[Representation, "NDArray[np.float32] | SparseVector"]

#: An approximate search that keeps fewer neighbours in sight misses some of the best.
_LEAST_BREADTH = 128
#: Who asks for so many wants them all, and a graph does not lead to every point.
_EXACT_FROM = 1000
#: More than any index holds; engines count in 64 bits.
_MOST_CANDIDATES = 2**40

_PROPOSING: tuple[Representation, ...] = ("dense", "sparse")


@dataclass(frozen=True)
class Search:
    """The checked arguments of a search.

    Attributes:
        k: How many hits are wanted.
        weights: Of the representations that make up the score, each above 0.
        fusion: Their weighted mean, or reciprocal rank fusion.
        condition: On the metadata.
        candidates: How many points each proposing representation proposes.
        proposing: The representations that propose candidates.
    """

    k: int
    weights: Mapping[Representation, float]
    fusion: Fusion
    condition: Condition | None
    candidates: int
    proposing: tuple[Representation, ...]

    @classmethod
    def of(
        cls, k: int, mode: Mode, weights: Weights, fusion: Fusion, condition: Condition | None, candidates: int
    ) -> Search:
        check_whole_number(k, "k")
        check_choice(mode, "mode", get_args(Mode))
        check_choice(fusion, "fusion", get_args(Fusion))
        check_whole_number(candidates, "candidates")
        chosen = weights_by_name(weights) if mode == "hybrid" else {mode: 1.0}
        # multi-vectors are too many to search, so both others propose what they score
        proposing = _PROPOSING if "multi_vector" in chosen else tuple(chosen)
        return cls(
            k=k,
            weights=chosen,
            fusion=fusion,
            condition=condition,
            candidates=min(max(k, candidates) if len(proposing) > 1 else k, _MOST_CANDIDATES),
            proposing=proposing,
        )

    @property
    def needed(self) -> frozenset[Representation]:
        """The representations of the query that this search needs."""
        return frozenset(self.weights) | frozenset(self.proposing)


def find(engine: Engine, query: QueryVectors, search: Search) -> tuple[Parts, list[str]]:
    """The candidates, and their scores in each representation that counts, whichever leg found them.

    Args:
        query: Its vectors. Without multi-vectors, scores by these are left for the caller to add.
    """
    breadth = max(_LEAST_BREADTH, search.candidates)
    legs = [
        Leg(
            r,
            query[r],
            search.candidates,
            search.condition,
            breadth=breadth,
            exact=r == "dense" and search.candidates >= _EXACT_FROM,
        )
        for r in search.proposing
    ]
    found: Parts = {r: {} for r in REPRESENTATIONS} | _ask(engine, legs)
    candidates = list(dict.fromkeys(point for r in search.proposing for point in found[r]))
    legs = []
    for r in search.weights:
        if r in query and (missing := [point for point in candidates if point not in found[r]]):
            legs.append(Leg(r, query[r], len(missing), among=missing))
    for r, scores in _ask(engine, legs).items():
        found[r] = found[r] | scores
    if "sparse" in search.weights:  # no token in common is a score of 0, not a missing one
        found["sparse"] = dict.fromkeys(candidates, 0.0) | found["sparse"]
    parts = {r: found[r] for r in search.weights if r in query}
    if any(len(scores) < len(candidates) for scores in parts.values()):
        # deleted between two questions, which only another process on a server can do
        candidates = [point for point in candidates if all(point in scores for scores in parts.values())]
        parts = {r: {point: scores[point] for point in candidates} for r, scores in parts.items()}
    return parts, candidates


def rank(parts: Parts, search: Search) -> list[tuple[str, float]]:
    """The best k points and their scores, best first; equal ones in the order of their points."""
    points = sorted(next(iter(parts.values())))
    columns = {r: np.array([parts[r][point] for point in points]) for r in search.weights}
    if search.fusion == "rrf" and len(search.weights) > 1:
        orders = [
            [i for i in np.argsort(-column, kind="stable").tolist() if r != "sparse" or column[i] > 0]
            for r, column in columns.items()
        ]
        fused = dict(reciprocal_rank_fusion(orders, weights=list(search.weights.values())))
        scores = np.array([fused[i] for i in range(len(points))])
    else:
        weighted = [weight * columns[r] for r, weight in search.weights.items()]
        scores = np.sum(weighted, axis=0) / sum(search.weights.values())
    best = np.argsort(-scores, kind="stable")[: search.k].tolist()
    return [(points[i], float(scores[i])) for i in best]


def vectors_of(encoded: Embeddings, i: int) -> QueryVectors:
    """The vectors of text i."""
    parts = {name: getattr(encoded, name) for name in REPRESENTATIONS}
    return {name: part[i] for name, part in parts.items() if part is not None}


def _ask(engine: Engine, legs: Sequence[Leg]) -> Parts:
    """The answers to some legs, max-sim as the mean over the query's vectors."""
    asked = [leg for leg in legs if leg.using != "sparse" or len(leg.vector[0])]  # no weights find nothing
    scores: Parts = {leg.using: {} for leg in legs}
    for leg, answer in zip(asked, engine.search(asked) if asked else [], strict=True):
        tokens = len(leg.vector) if leg.using == "multi_vector" else 1
        scores[leg.using] = {point: score / tokens for point, score in answer}
    return scores
