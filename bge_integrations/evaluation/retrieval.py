"""The exact search: an embedder's best documents for each query, with all the scores they are ranked by.

Documents are encoded and scored a chunk at a time, and only the best are kept, so that the memory needed depends on the
chunk and the queries, not on the number of documents.
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
#: Documents of each mode that are kept for each query, at least: enough to rank by other weights later.
_CANDIDATES = 1000
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Candidates:
    """For each query, the documents that are among the best of any mode, with their scores by each representation.

    Attributes:
        modes: What the documents were searched by.
        weights: Of dense, sparse and multi-vector scores in "hybrid".
        kept: How many documents of each mode were kept for each query, where there were so many.
        query_ids: The judged queries.
        document_ids: All documents, ascending.
        places: One int64 (n,) per query: places in `document_ids`, ascending.
        scores: One dict per query: float32 (n,) by representation, of the documents at `places`.
        seconds: "encode" for the documents, and for each mode its search, the queries' encoding included.
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
        """Those of these queries."""
        chosen = set(query_ids)
        rows = [row for row, key in enumerate(self.query_ids) if key in chosen]
        return replace(
            self,
            query_ids=[self.query_ids[row] for row in rows],
            places=[self.places[row] for row in rows],
            scores=[self.scores[row] for row in rows],
        )

    def run(self, mode: Mode, depth: int = 1000, weights: Weights | None = None) -> Run:
        """The best `depth` documents for each query; of equal scores, the smaller id comes first.

        A sparse search finds only documents that share a token with the query. Documents of one text may differ in a
        score's last digit, because matrix products are not computed alike in all columns.

        Args:
            mode: One of `modes`.
            depth: How many, at most `kept`.
            weights: For "hybrid", other ones than the documents were searched by. The ranking is then that of the
                candidates, which lacks a document only if it is among the best of neither representation.

        Raises:
            InvalidInputError: The mode was not searched for, or an argument can't be used.
        """
        check_whole_number(depth, "depth")
        if depth > self.kept:
            raise InvalidInputError(f"depth={depth}, but {self.kept} documents were kept; ask find_candidates for more")
        if mode not in self.modes:
            raise InvalidInputError(f"{mode!r} was not searched for; put it among the modes")
        rankings = {}
        for query, places, scores in zip(self.query_ids, self.places, self.scores, strict=True):
            found = _scores_of(mode, scores, self.weights if weights is None else weights)
            order = np.argsort(-found, kind="stable")[:depth]
            if mode == "sparse":
                order = order[found[order] > 0]
            if len(order):
                ids = [self.document_ids[place] for place in places[order].tolist()]
                rankings[query] = list(zip(ids, found[order].tolist(), strict=True))
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
    """Search all documents for each judged query, exactly.

    Queries are encoded as queries and documents as passages, once for all modes. A document with the query's own id is
    left out of that query's ranking, as BEIR does: there, it is the query itself.

    Args:
        data: Queries and documents.
        embedder: Any; bge-m3 (or "pocket") for other modes than "dense".
        modes: What to search by; None takes all that the embedder has.
        weights: Of dense, sparse and multi-vector scores in "hybrid", which is `scoring.weighted_mean`.
        depth: How many documents a ranking will need; at least 1000 are kept in any case.
        on_truncate: As in `Embedder.encode`; "warn" warns once for each chunk of 512 documents.
        show_progress: Show a bar.

    Raises:
        InvalidInputError: The embedder does not have such a mode, or an argument can't be used.
    """
    check_data(data)
    chosen = check_modes(modes, embedder)
    weights_by_name(weights)  # now, not after the encoding
    check_whole_number(depth, "depth")
    representations = representations_of(chosen)
    asked = {name: name in representations for name in REPRESENTATIONS}
    started = time.perf_counter()
    query_ids = data.judged
    texts = [data.queries[key] for key in query_ids]
    queries = embedder.encode(texts, kind="query", on_truncate=on_truncate, **asked)
    seconds: dict[str, float] = dict.fromkeys(chosen, time.perf_counter() - started)
    seconds["encode"] = 0.0

    document_ids = sorted(data.documents)  # so that among equal scores the earlier place is the smaller id
    place_of = {key: place for place, key in enumerate(document_ids)}
    own = [place_of.get(key, -1) for key in query_ids]
    kept = max(depth, _CANDIDATES)
    best = {mode: [TopK(kept) for _ in query_ids] for mode in chosen}
    with progress_bar(len(document_ids), "document", show_progress) as bar:
        for first in range(0, len(document_ids), _CHUNK):
            ids = document_ids[first : first + _CHUNK]
            started = time.perf_counter()
            passages = embedder.encode(
                [data.documents[key] for key in ids], kind="passage", on_truncate=on_truncate, **asked
            )
            seconds["encode"] += time.perf_counter() - started
            scores: dict[Representation, NDArray[np.float32]] = {}
            taken = {}
            for name in representations:
                started = time.perf_counter()
                scores[name] = representation_scores(name, queries, passages)
                taken[name] = time.perf_counter() - started
            for mode in chosen:
                started = time.perf_counter()
                _add(best[mode], own, first, _scores_of(mode, scores, weights), scores)
                seconds[mode] += time.perf_counter() - started + sum(taken[name] for name in representations_of([mode]))
            bar.update(len(ids))
    places, scores_kept = _union(list(best.values()), representations)
    return Candidates(chosen, weights, kept, query_ids, document_ids, places, scores_kept, seconds)


def representations_of(modes: Sequence[Mode]) -> tuple[Representation, ...]:
    """What has to be computed for these modes."""
    return tuple(name for name in REPRESENTATIONS if name in modes or "hybrid" in modes)


def check_modes(modes: Sequence[Mode] | None, embedder: Embedder) -> tuple[Mode, ...]:
    """The modes to search by: those asked for, or all that the embedder has.

    Raises:
        InvalidInputError: This is no embedder, it does not have such a mode, or there is no such mode.
    """
    from bge_integrations.core.embedder import Embedder  # here, since it imports torch

    if not isinstance(embedder, Embedder):
        raise InvalidInputError(f"the embedder is of type {type(embedder).__name__}; pass what load_embedder gives")
    available = _MODES if embedder.has_sparse and embedder.has_multi_vector else _MODES[:1]
    if modes is None:
        return available
    chosen = () if isinstance(modes, str) or not isinstance(modes, Iterable) else tuple(modes)
    if not chosen or any(mode not in _MODES for mode in chosen) or len(set(chosen)) != len(chosen):
        raise InvalidInputError(f"modes={modes!r} must be some of {', '.join(map(repr, _MODES))}, each once, in a list")
    if missing := [mode for mode in chosen if mode not in available]:
        raise InvalidInputError(
            f"{embedder.name} has no sparse and multi-vector heads, which {missing[0]!r} needs; load bge-m3 (or "
            "'pocket'), or take modes=['dense']"
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
        own: For each query the place of the document with the query's id, which is left out; -1 if there is none.
        first: The place of the chunk's first document.
        ranked_by: (queries, documents), the scores to rank by.
        scores: The same shape, to keep beside.
    """
    places = np.arange(first, first + ranked_by.shape[1])
    for query, (top, own_place) in enumerate(zip(best, own, strict=True)):
        chosen = places != own_place
        others = {name: rows[query, chosen] for name, rows in scores.items()}
        top.add(places[chosen], ranked_by[query, chosen], others)


def _union(
    best: Sequence[Sequence[TopK]], representations: Sequence[Representation]
) -> tuple[list[NDArray[np.int64]], list[dict[Representation, NDArray[np.float32]]]]:
    """Return for each query the distinct documents of all modes, by ascending place, and their scores."""
    all_places, all_scores = [], []
    for tops in zip(*best, strict=True):
        places, columns = np.unique(np.concatenate([top.documents for top in tops]), return_index=True)
        all_places.append(places)
        all_scores.append(
            {name: np.concatenate([top.other_scores[name] for top in tops])[columns] for name in representations}
        )
    return all_places, all_scores


def _scores_of(mode: Mode, scores: dict[Representation, NDArray[np.float32]], weights: Weights) -> NDArray[np.float32]:
    if mode == "hybrid":
        return weighted_mean(scores, weights_by_name(weights))
    return scores[mode]
