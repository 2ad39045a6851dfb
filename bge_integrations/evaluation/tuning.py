"""Tune the weights of bge-m3's three scores on one part of the queries, and measure them on the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.dataset import Dataset, check_data
from bge_integrations.evaluation.measures import (
    DEPTHS,
    Comparison,
    Result,
    check_measure,
    compare,
    figures,
    measure_run,
)
from bge_integrations.evaluation.retrieval import Candidates, find_candidates
from bge_integrations.progress import progress_bar
from bge_integrations.scoring import Mode, Weights
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

_SINGLE: tuple[Mode, ...] = ("dense", "sparse", "multi_vector")
_DEFAULT: Weights = (1.0, 1.0, 1.0)
#: Steps from 0 to 1: weights are multiples of 0.1.
_STEPS = 10
#: Minimum number of queries on each side of the split.
_FEWEST = 10


@dataclass(frozen=True, eq=False)
class Tuned:
    """Tuned weights and their results.

    Attributes:
        measure: The measure that was maximised.
        weights: Weights of the dense, sparse and multi-vector scores; they sum to 1.
        train: Result on the training queries, which is too optimistic.
        held_out: Result on the held-out queries, which is the one to expect.
        held_out_default: The same with the weights (1, 1, 1).
        held_out_modes: The same with "dense", "sparse" or "multi_vector" alone.
        comparison: `held_out` ("tuned weights") against `held_out_default` ("weights 1, 1, 1").
    """

    measure: str
    weights: Weights
    train: Result
    held_out: Result
    held_out_default: Result
    held_out_modes: dict[Mode, Result]
    comparison: Comparison


def tune_weights(
    data: Dataset,
    source: Embedder | Candidates,
    measure: str = "nDCG@10",
    *,
    share: float = 0.5,
    seed: int = 0,
    depth: int = 1000,
    show_progress: bool = False,
) -> Tuned:
    """Find the weights with the best mean on the training queries, and measure them on the held-out queries.

    All weights in steps of 0.1 that sum to 1 are tried; among equally good ones, the most even weights win.

    Args:
        data: Queries, documents and judgements.
        source: An embedder with all three representations, or candidates of this data in all four modes
            (`report.candidates`), which saves encoding it again.
        measure: The measure to maximise.
        share: Share of the judged queries to train on.
        seed: Seed of the random split.
        depth: Number of documents per ranking, as in `evaluate`.
        show_progress: Show progress bars.

    Raises:
        InvalidInputError: The embedder lacks a representation, either side has fewer than 10 queries, or an argument is
            invalid.
    """
    from bge_integrations.core.embedder import Embedder  # imports torch

    check_data(data)
    if not isinstance(source, (Candidates, Embedder)):
        raise InvalidInputError(
            f"source must be an Embedder or Candidates, got {type(source).__name__}",
            argument="source",
            advice="pass a loaded embedder or report.candidates",
        )
    check_measure(measure)
    check_whole_number(depth, "depth")
    train, held_out = _split(data, share, seed)
    if isinstance(source, Candidates):
        candidates = source
    else:
        modes: tuple[Mode, ...] = (*_SINGLE, "hybrid")
        candidates = find_candidates(data, source, modes=modes, depth=depth, show_progress=show_progress)
    if {*_SINGLE, "hybrid"} != set(candidates.modes):
        raise InvalidInputError(
            "source must have candidates of all four modes",
            argument="source",
            advice="search without modes=",
        )
    if candidates.query_ids != data.judged or candidates.document_ids != data.searchable:
        raise InvalidInputError(
            f"source has the candidates of other data than {data.name!r}",
            argument="source",
            advice="find them with the same data",
        )
    trained_on, tested_on = candidates.only(train.judged), candidates.only(held_out.judged)
    default = measure_run(held_out, tested_on.run("hybrid", depth, _DEFAULT))  # first: it raises if depth is too large
    weights = _best_weights(train, trained_on, measure, depth, show_progress)
    tuned = measure_run(held_out, tested_on.run("hybrid", depth, weights))
    return Tuned(
        measure=measure,
        weights=weights,
        train=measure_run(train, trained_on.run("hybrid", depth, weights)),
        held_out=tuned,
        held_out_default=default,
        held_out_modes={mode: measure_run(held_out, tested_on.run(mode, depth)) for mode in _SINGLE},
        # both runs are named "hybrid"
        comparison=replace(compare(tuned, default, measure), first="tuned weights", second="weights 1, 1, 1"),
    )


def check_enough_queries(data: Dataset, share: float = 0.5) -> int:
    """Return the number of judged queries to train on.

    Raises:
        InvalidInputError: Either side of the split has too few queries.
    """
    queries = len(data.judged)
    cut = round(share * queries)
    if min(cut, queries - cut) < _FEWEST:
        raise InvalidInputError(
            f"{data.name}: {queries} judged queries are split into {cut} for training and {queries - cut} held out",
            advice=f"judge more queries: at least {_FEWEST} are needed on each side",
        )
    return cut


def _split(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split the data into one with the judgements of `share` of the queries and one with the rest."""
    if not isinstance(share, Real) or not 0 < share < 1:
        raise InvalidInputError(f"share={share!r} must be above 0 and below 1", argument="share")
    check_whole_number(seed, "seed", least=0)
    queries = data.judged
    order = np.random.default_rng(seed).permutation(len(queries)).tolist()
    cut = check_enough_queries(data, share)
    return data.only([queries[i] for i in order[:cut]]), data.only([queries[i] for i in order[cut:]])


def _best_weights(data: Dataset, candidates: Candidates, measure: str, depth: int, show_progress: bool) -> Weights:
    shallow = min(depth, DEPTHS[measure] or depth)
    best, best_mean = _DEFAULT, -1.0
    grid = sorted(_simplex(), key=lambda weights: (sum(w * w for w in weights), weights))  # equal weights first
    with progress_bar(len(grid), "weights", show_progress) as bar:
        for weights in grid:
            mean = float(np.mean(list(figures(data, candidates.run("hybrid", shallow, weights))[measure].values())))
            if mean > best_mean + 1e-9:
                best, best_mean = weights, mean
            bar.update()
    return best


def _simplex() -> Iterator[Weights]:
    for dense in range(_STEPS + 1):
        for sparse in range(_STEPS + 1 - dense):
            yield dense / _STEPS, sparse / _STEPS, (_STEPS - dense - sparse) / _STEPS
