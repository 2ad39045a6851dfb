"""Exact search: the best documents for each query, with all their scores.

Documents are encoded and scored in chunks, and only the best are kept, so memory depends on the size of a chunk and the
number of queries, not on the number of documents.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.dataset import Dataset, check_data
from bge_integrations.evaluation.runs import Run
from bge_integrations.progress import progress_bar
from bge_integrations.scoring import (
    REPRESENTATIONS,
    Mode,
    Representation,
    TopK,
    Weights,
    representation_scores,
    weighted_mean,
    weights_by_name,
)
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.request import OnTruncate

_MODES: tuple[Mode, ...] = get_args(Mode)
#: Minimum number of documents kept per mode and query: enough to rank with other weights later.
_CANDIDATES = 1000
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Candidates:
    """The best documents of all modes for each query, with their scores by representation.

    Attributes:
        modes: The search modes.
        weights: Weights of the dense, sparse and multi-vector scores in "hybrid".
        kept: Maximum number of documents kept per mode and query.
        query_ids: The judged queries.
        document_ids: All documents with words, sorted.
        places: For each query, int64 (n,): positions of its documents in `document_ids`, ascending.
        scores: For each query, float32 (n,) by representation: the scores of the documents at `places`.
        seconds: "encode" is the time for the documents; each mode has its search time, including encoding the queries.
    """

    modes: tuple[Mode, ...]
    weights: Weights
    kept: int
    query_ids: list[str]
    document_ids: list[str]
    places: list[NDArray[np.int64]]
    scores: list[dict[Representation, NDArray[np.float32]]]
    seconds: dict[str, float] = field(default_factory=dict)

    def only(self, query_ids: Collection[str]) -> Candidates:
        """Return the candidates of these queries only."""
        chosen = set(query_ids)
        rows = [row for row, key in enumerate(self.query_ids) if key in chosen]
        return replace(
            self,
            query_ids=[self.query_ids[row] for row in rows],
            places=[self.places[row] for row in rows],
            scores=[self.scores[row] for row in rows],
        )

    def run(self, mode: Mode, depth: int = 1000, weights: Weights | None = None) -> Run:
        """Return the best `depth` documents for each query; ties are ranked by id.

        Sparse search returns only documents that share a token with the query. Scores of identical texts may differ in
        the last digit, because matrix products round differently from column to column.

        Args:
            mode: One of `modes`.
            depth: Number of documents, at most `kept`.
            weights: Other weights for "hybrid". Only the candidates are ranked again, so a document that is not among
                the best of any mode can't appear.

        Raises:
            InvalidInputError: The candidates do not include the mode, or an argument is invalid.
        """
        check_whole_number(depth, "depth")
        if depth > self.kept:
            raise InvalidInputError(
                f"depth={depth} is more than the {self.kept} documents kept",
                argument="depth",
                advice="pass find_candidates a larger depth",
            )
        if mode not in self.modes:
            raise InvalidInputError(
                f"the candidates do not include {mode!r}", argument="mode", advice="add it to the modes of the search"
            )
        rankings = {}
        for query, places, scores in zip(self.query_ids, self.places, self.scores, strict=True):
            ranked_by = _scores_of(mode, scores, self.weights if weights is None else weights)
            order = np.argsort(-ranked_by, kind="stable")[:depth]
            if mode == "sparse":
                order = order[ranked_by[order] > 0]
            if len(order):
                ids = [self.document_ids[position] for position in places[order].tolist()]
                rankings[query] = list(zip(ids, ranked_by[order].tolist(), strict=True))
        seconds = {
            name: self.seconds[key] for name, key in (("encode", "encode"), ("search", mode)) if key in self.seconds
        }
        return Run(mode, rankings, seconds)


def find_candidates(
    data: Dataset,
    embedder: Embedder,
    *,
    modes: Sequence[Mode] | None = None,
    weights: Weights = (1.0, 1.0, 1.0),
    depth: int = 1000,
    on_truncate: OnTruncate = "warn",
    show_progress: bool = False,
) -> Candidates:
    """Search all documents exhaustively for each judged query.

    Queries and documents are encoded once for all modes. A document with the query's own id is excluded from that
    query's ranking, as in BEIR, where it is the query itself. Documents without words are in no ranking, as in an
    M3Index.

    Args:
        data: Queries and documents.
        embedder: Any embedder; modes other than "dense" need bge-m3 or "pocket".
        modes: Search modes; None means all that the embedder has.
        weights: Weights of the dense, sparse and multi-vector scores in "hybrid", as in `scoring.weighted_mean`.
        depth: Maximum depth of the rankings; at least 1000 documents are kept.
        on_truncate: As in `Embedder.encode`; "warn" warns once per chunk of 512 documents.
        show_progress: Show a progress bar.

    Raises:
        InvalidInputError: The embedder does not have a mode, or an argument is invalid.
    """
    check_data(data)
    chosen = check_modes(modes, embedder)
    weights_by_name(weights)  # checked before anything is encoded
    check_whole_number(depth, "depth")
    representations = representations_of(chosen)
    outputs = {name: name in representations for name in REPRESENTATIONS}
    started = time.perf_counter()
    query_ids = data.judged
    texts = [data.queries[key] for key in query_ids]
    queries = embedder.encode(texts, kind="query", on_truncate=on_truncate, **outputs)
    seconds: dict[str, float] = dict.fromkeys(chosen, time.perf_counter() - started)
    seconds["encode"] = 0.0

    document_ids = data.searchable  # sorted, because ties are ranked by id
    if not document_ids:
        raise InvalidInputError(f"{data.name}: no document has any words", argument="data", advice="pass documents")
    position_of = {key: position for position, key in enumerate(document_ids)}
    own = [position_of.get(key, -1) for key in query_ids]
    kept = max(depth, _CANDIDATES)
    best = {mode: [TopK(kept) for _ in query_ids] for mode in chosen}
    with progress_bar(len(document_ids), "document", show_progress) as bar:
        for first in range(0, len(document_ids), _CHUNK):
            ids = document_ids[first : first + _CHUNK]
            started = time.perf_counter()
            passages = embedder.encode(
                [data.documents[key] for key in ids], kind="passage", on_truncate=on_truncate, **outputs
            )
            seconds["encode"] += time.perf_counter() - started
            scores: dict[Representation, NDArray[np.float32]] = {}
            scoring_seconds = {}
            for name in representations:
                started = time.perf_counter()
                scores[name] = representation_scores(name, queries, passages)
                scoring_seconds[name] = time.perf_counter() - started
            for mode in chosen:
                started = time.perf_counter()
                _add(best[mode], own, first, _scores_of(mode, scores, weights), scores)
                seconds[mode] += time.perf_counter() - started
                seconds[mode] += sum(scoring_seconds[name] for name in representations_of([mode]))
            bar.update(len(ids))
    places, scores_kept = _union(list(best.values()), representations)
    return Candidates(chosen, weights, kept, query_ids, document_ids, places, scores_kept, seconds)


def representations_of(modes: Sequence[Mode]) -> tuple[Representation, ...]:
    """Return the representations that these modes need."""
    return tuple(name for name in REPRESENTATIONS if name in modes or "hybrid" in modes)


def check_modes(modes: Sequence[Mode] | None, embedder: Embedder) -> tuple[Mode, ...]:
    """Return the modes as a tuple; None means all that the embedder has.

    Raises:
        InvalidInputError: This is not an embedder, it does not have a mode, or there is no such mode.
    """
    from bge_integrations.core.embedder import Embedder  # imports torch

    if not isinstance(embedder, Embedder):
        raise InvalidInputError(
            f"embedder must be an Embedder, got {type(embedder).__name__}",
            argument="embedder",
            advice="load one with load_embedder",
        )
    available = _MODES if embedder.has_sparse and embedder.has_multi_vector else _MODES[:1]
    if modes is None:
        return available
    chosen = () if isinstance(modes, str) or not isinstance(modes, Iterable) else tuple(modes)
    if not chosen or any(mode not in _MODES for mode in chosen) or len(set(chosen)) != len(chosen):
        raise InvalidInputError(
            f"modes={modes!r} must be a list of {', '.join(map(repr, _MODES))} without repeats", argument="modes"
        )
    if missing := [mode for mode in chosen if mode not in available]:
        raise InvalidInputError(
            f"{embedder.name} has no sparse and multi-vector heads, which {missing[0]!r} needs",
            argument="modes",
            advice="load bge-m3 (or 'pocket'), or use modes=['dense']",
        )
    return chosen


def _add(
    best: Sequence[TopK],
    own: Sequence[int],
    first: int,
    ranked_by: NDArray[np.float32],
    scores: Mapping[Representation, NDArray[np.float32]],
) -> None:
    """Add a chunk of documents to each query's best.

    Args:
        best: One per query.
        own: For each query, the position of the document with the query's id, which is excluded; -1 if there is none.
        first: Position of the chunk's first document.
        ranked_by: (queries, documents): the scores to rank by.
        scores: Scores of the same shape to store with them, by representation.
    """
    positions = np.arange(first, first + ranked_by.shape[1])
    for query, (top, own_position) in enumerate(zip(best, own, strict=True)):
        chosen = positions != own_position
        others = {name: rows[query, chosen] for name, rows in scores.items()}
        top.add(positions[chosen], ranked_by[query, chosen], others)


def _union(
    best: Sequence[Sequence[TopK]], representations: Sequence[Representation]
) -> tuple[list[NDArray[np.int64]], list[dict[Representation, NDArray[np.float32]]]]:
    """Return the distinct documents of all modes for each query, as sorted positions, and their scores."""
    all_positions, all_scores = [], []
    for tops in zip(*best, strict=True):
        positions, columns = np.unique(np.concatenate([top.documents for top in tops]), return_index=True)
        all_positions.append(positions)
        all_scores.append(
            {name: np.concatenate([top.other_scores[name] for top in tops])[columns] for name in representations}
        )
    return all_positions, all_scores


def _scores_of(mode: Mode, scores: dict[Representation, NDArray[np.float32]], weights: Weights) -> NDArray[np.float32]:
    if mode == "hybrid":
        return weighted_mean(scores, weights_by_name(weights))
    return scores[mode]
