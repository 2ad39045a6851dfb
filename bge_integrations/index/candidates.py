"""Finding, scoring and ranking the candidates for a query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.index.engine import SubQuery
from bge_integrations.scoring import REPRESENTATIONS, Representation, reciprocal_rank_fusion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import Engine
    from bge_integrations.index.search_arguments import Fusion, Search
    from bge_integrations.index.vectors import Vectors

#: Scores by representation and point.
Scores = dict[Representation, dict[str, float]]

#: Minimum ef_search. With less, an approximate search misses some of the best points.
_MIN_EF_SEARCH = 128
#: From this many candidates on, search exhaustively: an HNSW graph does not reach every point.
_EXACT_FROM = 1000


@dataclass
class Candidates:
    """One query's candidate points and all their scores."""

    points: list[str]
    scores: Scores


def find_candidates(engine: Engine, queries: Sequence[Vectors], search: Search) -> list[Candidates]:
    """Return each query's candidates with all scores that the search combines.

    The engine gets two requests: one for the candidates, and one for their missing scores.

    Args:
        queries: The query vectors. If a query lacks a vector, the caller has to add that score.
    """
    proposed = _run(engine, [_candidate_queries(query, search) for query in queries])
    candidates = [list(dict.fromkeys(point for r in search.proposing for point in scores[r])) for scores in proposed]
    missing = [
        list(_missing_scores(query, points, scores, search))
        for query, points, scores in zip(queries, candidates, proposed, strict=True)
    ]
    completed = []
    for query, points, scores, added in zip(queries, candidates, proposed, _run(engine, missing), strict=True):
        for r, by_point in added.items():
            scores[r] = scores[r] | by_point
        if "sparse" in search.weights:  # without a shared token, the score is 0, not missing
            scores["sparse"] = dict.fromkeys(points, 0.0) | scores["sparse"]
        completed.append(_without_deleted(points, {r: scores[r] for r in search.weights if r in query}))
    return completed


def rank(scores: Scores, search: Search) -> list[tuple[str, float]]:
    """Return the k best points and their scores, best first. Ties are ordered by point."""
    points = sorted(next(iter(scores.values())))
    if not points:
        return []
    columns = {r: np.array([scores[r][point] for point in points]) for r in search.weights}
    fusion = search.fusion if len(columns) > 1 else "weighted"
    if fusion == "rrf":
        orders = [
            [i for i in np.argsort(-column, kind="stable").tolist() if r != "sparse" or column[i] > 0]
            for r, column in columns.items()
        ]
        by_row = dict(reciprocal_rank_fusion(orders, weights=list(search.weights.values())))
        fused = np.array([by_row[i] for i in range(len(points))])
    else:
        weighted = [weight * _scaled(columns[r], fusion) for r, weight in search.weights.items()]
        fused = np.sum(weighted, axis=0) / sum(search.weights.values())
    best = np.argsort(-fused, kind="stable")[: search.k].tolist()
    return [(points[i], float(fused[i])) for i in best]


def _scaled(scores: NDArray[np.float64], fusion: Fusion) -> NDArray[np.float64]:
    """Return the candidates' scores as "weighted", "min_max" and "z_score" combine them. Equal scores become zeros."""
    if fusion == "weighted":
        return scores
    origin, unit = (scores.min(), np.ptp(scores)) if fusion == "min_max" else (scores.mean(), scores.std())
    scaled: NDArray[np.float64] = (scores - origin) / (unit or 1)
    return scaled


def _candidate_queries(query: Vectors, search: Search) -> list[SubQuery]:
    """Return the sub-queries that retrieve candidates."""
    return [
        SubQuery(
            r,
            query[r],
            search.candidates,
            search.condition,
            ef_search=max(_MIN_EF_SEARCH, search.candidates),
            exact=r == "dense" and search.candidates >= _EXACT_FROM,
        )
        for r in search.proposing
    ]


def _missing_scores(query: Vectors, points: Sequence[str], scores: Scores, search: Search) -> Iterator[SubQuery]:
    """Yield sub-queries for the scores that the candidates lack."""
    for r in search.weights:
        if r in query and (missing := [point for point in points if point not in scores[r]]):
            yield SubQuery(r, query[r], len(missing), among=missing)


def _without_deleted(points: list[str], scores: Scores) -> Candidates:
    """Drop points that another client of the server deleted between the two requests."""
    if any(len(by_point) < len(points) for by_point in scores.values()):
        points = [point for point in points if all(point in by_point for by_point in scores.values())]
        scores = {r: {point: by_point[point] for point in points} for r, by_point in scores.items()}
    return Candidates(points, scores)


def _run(engine: Engine, queries: Sequence[Sequence[SubQuery]]) -> list[Scores]:
    """Run the sub-queries of several queries in one request. Max-sim sums become means over the query's vectors."""
    sent = [sub_query for sub_queries in queries for sub_query in sub_queries if _can_match(sub_query)]
    answers = iter(engine.search(sent) if sent else [])
    all_scores: list[Scores] = []
    for sub_queries in queries:
        scores: Scores = {r: {} for r in REPRESENTATIONS}
        for sub_query in filter(_can_match, sub_queries):
            tokens = len(sub_query.vector) if sub_query.using == "multi_vector" else 1
            scores[sub_query.using] = {point: score / tokens for point, score in next(answers)}
        all_scores.append(scores)
    return all_scores


def _can_match(sub_query: SubQuery) -> bool:
    """Return whether the sub-query can match anything. An empty sparse vector can't."""
    return sub_query.using != "sparse" or len(sub_query.vector[0]) > 0
