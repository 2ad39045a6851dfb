"""Scores between queries and passages, and rank fusion.

Formulas: BGE-M3 (Chen et al., 2024), as implemented in FlagEmbedding. No score depends on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors
from bge_integrations.representations import REPRESENTATIONS as REPRESENTATIONS
from bge_integrations.representations import Mode as Mode
from bge_integrations.representations import Representation as Representation
from bge_integrations.representations import Weights as Weights
from bge_integrations.validation import check_choice, check_score_threshold, check_top_n

if TYPE_CHECKING:
    from numpy.typing import NDArray

Id = TypeVar("Id", bound=Hashable)

#: Maximum number of token-to-token products computed at a time: 64 MB of float32.
_BLOCK = 1 << 24


def lexical_scores(queries: SparseVectors, passages: SparseVectors) -> NDArray[np.float32]:
    """Return the lexical scores: Σ w_query · w_passage over the token ids that both texts have.

    Returns:
        float32 (queries, passages).

    Raises:
        InvalidInputError: The two come from models with different vocabularies, or are something else.
    """
    _check_types(SparseVectors, queries=queries, passages=passages)
    if queries.size != passages.size:
        raise InvalidInputError(
            f"queries have {queries.size} vocabulary columns, but passages have {passages.size}; encode both with the "
            "same model"
        )
    product = queries.to_scipy() @ passages.to_scipy().T
    scores: NDArray[np.float32] = product.toarray().astype(np.float32, copy=False)
    return scores


def max_sim(queries: MultiVectors, passages: MultiVectors) -> NDArray[np.float32]:
    """Return the MaxSim scores: (1 / n) Σ_i max_j q_i · p_j over a query's n vectors and a passage's vectors.

    Products are computed over the packed passages and reduced per passage, without padding.

    Returns:
        float32 (queries, passages); 0 where a text has no vectors.

    Raises:
        InvalidInputError: The vectors differ in width, or are something else.
    """
    _check_types(MultiVectors, queries=queries, passages=passages)
    if queries.vectors.shape[1] != passages.vectors.shape[1]:
        raise InvalidInputError(
            f"query vectors are {queries.vectors.shape[1]} wide, but passage vectors are {passages.vectors.shape[1]}; "
            "encode both with the same model and truncate_dim"
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
    """The scores of each representation and their weighted means, all float32 (queries, passages).

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


def hybrid_scores(queries: Embeddings, passages: Embeddings, weights: Weights = (1.0, 1.0, 1.0)) -> HybridScores:
    """Return all of bge-m3's scores between each query and each passage.

    Args:
        queries: Encoded with dense, sparse and multi_vector.
        passages: Encoded in the same way, by the same model.
        weights: The weights of dense, sparse and multi-vector scores, at least 0. If w0 = w1 = 0, `sparse_dense` is 0.

    Raises:
        InvalidInputError: A representation is missing, or the weights are invalid.
    """
    chosen = weights_by_name(weights)
    scores = {name: representation_scores(name, queries, passages) for name in REPRESENTATIONS}
    both: dict[Representation, float] = {name: w for name, w in chosen.items() if name != "multi_vector"}
    return HybridScores(
        **scores,
        sparse_dense=weighted_mean(scores, both) if both else np.zeros_like(scores["dense"]),
        hybrid=weighted_mean(scores, chosen),
    )


def representation_scores(name: Representation, queries: Embeddings, passages: Embeddings) -> NDArray[np.float32]:
    """Return the scores of one representation: dot products, `lexical_scores` or `max_sim`.

    Returns:
        float32 (queries, passages).

    Raises:
        InvalidInputError: The representation is missing, or the two come from different models.
    """
    check_choice(name, "name", REPRESENTATIONS)
    _check_types(Embeddings, queries=queries, passages=passages)
    query, passage = getattr(queries, name), getattr(passages, name)
    if query is None or passage is None:
        raise InvalidInputError(f"encode queries and passages with {name}=True")
    if name == "sparse":
        return lexical_scores(query, passage)
    if name == "multi_vector":
        return max_sim(query, passage)
    if query.shape[1] != passage.shape[1]:
        raise InvalidInputError("dense vectors differ in width; encode both with the same model and truncate_dim")
    products: NDArray[np.float32] = query @ passage.T
    return products


def weights_by_name(weights: Sequence[float]) -> dict[Representation, float]:
    """Return the weights of a hybrid score by representation, without those that are 0.

    Raises:
        InvalidInputError: There are not three weights, one is negative, all are 0, or their sum overflows float32.
    """
    try:
        by_name = dict(zip(REPRESENTATIONS, map(float, weights), strict=True))
    except (TypeError, ValueError, OverflowError):
        by_name = {}
    if not by_name or any(w < 0 or not np.isfinite(w) for w in by_name.values()) or not any(by_name.values()):
        raise InvalidInputError(
            f"weights={weights!r} must be three numbers >= 0 (dense, sparse, multi-vector), at least one above 0"
        )
    if sum(by_name.values()) > float(np.finfo(np.float32).max):
        raise InvalidInputError(f"weights={weights!r} overflow float32; scale them down, only their ratio matters")
    return {name: weight for name, weight in by_name.items() if weight > 0}


def weighted_mean(
    scores: Mapping[Representation, NDArray[np.float32]], weights: Mapping[Representation, float]
) -> NDArray[np.float32]:
    """Return Σ weight · score / Σ weight over the representations that have a weight.

    Args:
        scores: Arrays of the same shape; a representation without a weight may be missing.
        weights: From `weights_by_name`.

    Returns:
        float32, of the same shape.
    """
    total = sum(weight * scores[name] for name, weight in weights.items())
    mean: NDArray[np.float32] = np.divide(total, sum(weights.values()), dtype=np.float32)
    return mean


def reciprocal_rank_fusion(
    rankings: Iterable[Sequence[Id]], *, k: int = 60, weights: Sequence[float] | None = None
) -> list[tuple[Id, float]]:
    """Merge rankings by Σ weight / (k + rank), rank from 1 (Cormack, Clarke and Büttcher, 2009).

    Args:
        rankings: Ids, best first; an id may be missing from some.
        k: Damps the difference between the first ranks; at least 0.
        weights: One per ranking; None weights all equally.

    Returns:
        (id, score), best first; ids with equal scores are in the order of their first occurrence.

    Raises:
        InvalidInputError: An id occurs twice in a ranking, or there is not one weight per ranking.
    """
    lists = [list(ranking) for ranking in rankings]
    chosen = [1.0] * len(lists) if weights is None else list(weights)
    if len(chosen) != len(lists):
        raise InvalidInputError(f"got {len(chosen)} weights for {len(lists)} rankings; pass one per ranking")
    if k < 0:
        raise InvalidInputError(f"k={k} must be at least 0")
    scores: dict[Id, float] = {}
    for ranking, weight in zip(lists, chosen, strict=True):
        if len(set(ranking)) != len(ranking):
            raise InvalidInputError("an id occurs twice in one ranking; keep only its best rank")
        for rank, identifier in enumerate(ranking, start=1):
            scores[identifier] = scores.get(identifier, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


class TopK:
    """The k highest-scoring documents of all that were added for one query; on ties the earlier one wins.

    Attributes:
        documents: int64 (n,), the documents' positions in the corpus, best first.
        scores: float32 (n,), the scores they are ranked by.
        other_scores: Other scores of the same documents by name, float32 (n,) each.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self.documents = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)
        self.other_scores: dict[Representation, NDArray[np.float32]] = {}

    def add(
        self,
        documents: NDArray[np.int64],
        scores: NDArray[np.float32],
        other_scores: Mapping[Representation, NDArray[np.float32]] | None = None,
    ) -> None:
        """Add documents that were not added before; all arrays have one entry per document."""
        others = other_scores or {}
        if len(self.scores) == self._k:  # few documents beat the worst of these, so there is little left to sort
            better = np.flatnonzero(scores > self.scores[-1])
            documents, scores = documents[better], scores[better]
            others = {name: column[better] for name, column in others.items()}
        all_scores = np.concatenate((self.scores, scores))
        order = np.argsort(-all_scores, kind="stable")[: self._k]
        self.scores = all_scores[order]
        self.documents = np.concatenate((self.documents, documents))[order]
        for name, column in others.items():
            kept = self.other_scores.get(name, np.empty(0, np.float32))
            self.other_scores[name] = np.concatenate((kept, column))[order]


def _longest(vectors: MultiVectors) -> int:
    return int(np.diff(vectors.offsets).max(initial=1))


def _blocks(lengths: NDArray[np.int64], budget: int) -> Iterable[tuple[int, int]]:
    """Yield (first, end) of consecutive texts that have at most `budget` tokens in total, or of one longer text."""
    first, tokens = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if i > first and tokens + length > budget:
            yield first, i
            first, tokens = i, 0
        tokens += length
    yield first, len(lengths)


def select_best(scores: Sequence[float], top_n: int | None = None, score_threshold: float | None = None) -> list[int]:
    """Return the positions of the highest scores, highest first; equal scores keep their order.

    Args:
        scores: One per candidate.
        top_n: Keep at most this many; None keeps all.
        score_threshold: Drop candidates that score lower; None drops none.

    Raises:
        InvalidInputError: `top_n` or `score_threshold` is something else.
    """
    check_top_n(top_n)
    check_score_threshold(score_threshold)
    positions = sorted(range(len(scores)), key=lambda i: -scores[i])
    if score_threshold is not None:
        positions = [i for i in positions if scores[i] >= score_threshold]
    return positions[:top_n]


def _check_types(kind: type, **arguments: object) -> None:
    """Raise InvalidInputError unless all arguments are of this class."""
    for name, value in arguments.items():
        if not isinstance(value, kind):
            raise InvalidInputError(
                f"{name} must be {kind.__name__}, got {type(value).__name__}",
                argument=name,
                advice="pass what an embedder's encode returns",
            )
