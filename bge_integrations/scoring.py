"""Scores between queries and passages, and the fusion of rankings.

Formulas: BGE-M3 (Chen et al., 2024), as implemented in FlagEmbedding. No score depends on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.outputs import Embeddings, MultiVectors, SparseVectors

Id = TypeVar("Id", bound=Hashable)

#: Query-token by passage-token products computed at a time: 64 MB of float32.
_BLOCK = 1 << 24


def lexical_scores(queries: SparseVectors, passages: SparseVectors) -> NDArray[np.float32]:
    """Σ over the token ids that both have of w_query · w_passage.

    Returns:
        float32 (queries, passages).

    Raises:
        InvalidInputError: The two come from models with different vocabularies.
    """
    if queries.size != passages.size:
        raise InvalidInputError(
            f"queries have {queries.size} vocabulary columns, passages {passages.size}; encode both with one model"
        )
    product = queries.to_scipy() @ passages.to_scipy().T
    scores: NDArray[np.float32] = product.toarray().astype(np.float32, copy=False)
    return scores


def max_sim(queries: MultiVectors, passages: MultiVectors) -> NDArray[np.float32]:
    """(1 / n) Σ_i max_j q_i · p_j over a query's n vectors and a passage's vectors.

    The products are taken over the packed passages and reduced per passage, so nothing is padded.

    Returns:
        float32 (queries, passages); 0 where a text has no vectors.

    Raises:
        InvalidInputError: The vectors differ in width.
    """
    if queries.vectors.shape[1] != passages.vectors.shape[1]:
        raise InvalidInputError(
            f"query vectors are {queries.vectors.shape[1]} wide, passage vectors {passages.vectors.shape[1]}; "
            "encode both with one model and one truncate_dim"
        )
    scores = np.zeros((len(queries), len(passages)), np.float32)
    filled = np.flatnonzero(np.diff(passages.offsets))
    if not len(filled):
        return scores
    for first, last in _blocks(np.diff(passages.offsets)[filled], max(1, _BLOCK // max(1, _longest(queries)))):
        chosen = filled[first:last]
        start, end = passages.offsets[chosen[0]], passages.offsets[chosen[-1] + 1]
        starts = passages.offsets[chosen] - start
        vectors = passages.vectors[start:end].T
        for i, query in enumerate(queries):
            if len(query):
                best = np.maximum.reduceat(query @ vectors, starts, axis=1)
                scores[i, chosen] = best.sum(axis=0) / len(query)
    return scores


@dataclass(frozen=True, eq=False)
class HybridScores:
    """The parts and their weighted sums, float32 (queries, passages) each.

    Attributes:
        dense: Dot product of the dense vectors.
        sparse: `lexical_scores`.
        multi_vector: `max_sim`.
        sparse_dense: (w0·dense + w1·sparse) / (w0 + w1).
        hybrid: (w0·dense + w1·sparse + w2·multi_vector) / (w0 + w1 + w2).
    """

    dense: NDArray[np.float32]
    sparse: NDArray[np.float32]
    multi_vector: NDArray[np.float32]
    sparse_dense: NDArray[np.float32]
    hybrid: NDArray[np.float32]


def hybrid_scores(
    queries: Embeddings, passages: Embeddings, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> HybridScores:
    """All of bge-m3's scores between each query and each passage.

    Args:
        queries: Encoded with dense, sparse and multi_vector.
        passages: Likewise, by the same model.
        weights: Of dense, sparse and multi-vector scores; none negative. With w0 = w1 = 0 `sparse_dense` is 0.

    Raises:
        InvalidInputError: A representation is missing, or the weights can't be used.
    """
    check_weights(weights)
    parts = (queries.dense, passages.dense, queries.sparse, passages.sparse)
    if any(part is None for part in parts) or queries.multi_vector is None or passages.multi_vector is None:
        raise InvalidInputError("encode queries and passages with dense=True, sparse=True and multi_vector=True")
    assert queries.dense is not None
    assert passages.dense is not None
    assert queries.sparse is not None
    assert passages.sparse is not None
    if queries.dense.shape[1] != passages.dense.shape[1]:
        raise InvalidInputError("dense vectors differ in width; encode both with one model and one truncate_dim")
    w0, w1, _ = weights
    dense = queries.dense @ passages.dense.T
    sparse = lexical_scores(queries.sparse, passages.sparse)
    multi_vector = max_sim(queries.multi_vector, passages.multi_vector)
    return HybridScores(
        dense=dense,
        sparse=sparse,
        multi_vector=multi_vector,
        sparse_dense=weighted_mean(dense, sparse, multi_vector, (w0, w1, 0.0)) if w0 + w1 > 0 else np.zeros_like(dense),
        hybrid=weighted_mean(dense, sparse, multi_vector, weights),
    )


def weighted_mean(
    dense: NDArray[np.float32],
    sparse: NDArray[np.float32],
    multi_vector: NDArray[np.float32],
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """(w0·dense + w1·sparse + w2·multi_vector) / (w0 + w1 + w2) of scores of one shape.

    Returns:
        float32, of that shape.

    Raises:
        InvalidInputError: The weights can't be used.
    """
    check_weights(weights)
    w0, w1, w2 = (float(w) for w in weights)  # plain floats keep float32 arrays float32
    total: NDArray[np.float32] = w0 * dense + w1 * sparse + w2 * multi_vector
    mean: NDArray[np.float32] = np.divide(total, w0 + w1 + w2, dtype=np.float32)
    return mean


def check_weights(weights: tuple[float, float, float]) -> None:
    """Raise InvalidInputError unless these are three numbers of at least 0, and one is above."""
    if len(weights) != 3 or any(not np.isfinite(w) or w < 0 for w in weights) or not sum(weights) > 0:
        raise InvalidInputError(f"weights={weights} must be three numbers >= 0, for dense, sparse and multi-vector")


def reciprocal_rank_fusion(
    rankings: Iterable[Sequence[Id]], *, k: int = 60, weights: Sequence[float] | None = None
) -> list[tuple[Id, float]]:
    """Merge rankings by Σ weight / (k + rank), rank from 1 (Cormack, Clarke and Büttcher, 2009).

    Args:
        rankings: Ids, best first; an id may be missing from some.
        k: Damps the difference between the first ranks; at least 0.
        weights: One per ranking; None weighs all alike.

    Returns:
        (id, score), best first; ids of equal score in the order in which they were first met.

    Raises:
        InvalidInputError: An id stands twice in a ranking, or there is not one weight per ranking.
    """
    lists = [list(ranking) for ranking in rankings]
    chosen = [1.0] * len(lists) if weights is None else list(weights)
    if len(chosen) != len(lists):
        raise InvalidInputError(f"{len(lists)} rankings need as many weights, got {len(chosen)}")
    if k < 0:
        raise InvalidInputError(f"k={k} must be at least 0")
    scores: dict[Id, float] = {}
    for ranking, weight in zip(lists, chosen, strict=True):
        if len(set(ranking)) != len(ranking):
            raise InvalidInputError("an id stands twice in one ranking; keep its best place only")
        for rank, identifier in enumerate(ranking, start=1):
            scores[identifier] = scores.get(identifier, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


def _longest(vectors: MultiVectors) -> int:
    return int(np.diff(vectors.offsets).max(initial=1))


def _blocks(lengths: NDArray[np.int64], budget: int) -> Iterable[tuple[int, int]]:
    """Cut texts of these lengths into neighbouring blocks of about `budget` tokens, one text at least."""
    first, tokens = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if i > first and tokens + length > budget:
            yield first, i
            first, tokens = i, 0
        tokens += length
    yield first, len(lengths)
