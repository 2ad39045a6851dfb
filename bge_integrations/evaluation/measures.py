"""How good a run is: measures per query, their means with intervals, and the comparison of two runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.dataset import Dataset, check_data
from bge_integrations.evaluation.extra import import_extra
from bge_integrations.evaluation.runs import Run, check_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: What is measured, and how ir-measures calls it.
MEASURES = {"nDCG@10": "nDCG@10", "Recall@100": "R@100", "MRR@10": "RR@10", "MAP": "AP"}
#: How many of the first documents a measure depends on; None for all of the run.
DEPTHS = {"nDCG@10": 10, "Recall@100": 100, "MRR@10": 10, "MAP": None}

_RESAMPLES = 10_000
_SEED = 0
#: Numbers drawn at a time: 32 MB.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Result:
    """A run and its measures.

    Attributes:
        run: What was measured.
        per_query: By measure and query id, from 0 to 1; all judged queries, 0 where nothing was found.
        means: By measure, over these queries.
        intervals: By measure, the 95 % bootstrap percentile interval of the mean.
    """

    run: Run
    per_query: dict[str, dict[str, float]]
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    @property
    def name(self) -> str:
        return self.run.name


@dataclass(frozen=True)
class Comparison:
    """Two runs by one measure, query by query.

    Attributes:
        measure: "nDCG@10", for example.
        first, second: Their names.
        difference: The mean of first less second.
        interval: Its 95 % bootstrap percentile interval.
        p_value: Two-sided, of the paired randomisation test: how often a difference as large comes about when, for each
            query, chance decides which of its two figures is whose. Not corrected for several comparisons.
        wins, ties, losses: Queries where the first is better, equal, worse.
    """

    measure: str
    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    wins: int
    ties: int
    losses: int


def measure_run(data: Dataset, run: Run) -> Result:
    """Measure a run with ir-measures: nDCG@10, Recall@100, MRR@10 and MAP.

    These are trec_eval's, and so BEIR's: gains are the grades themselves, documents without a judgement count as 0, and
    so do queries for which nothing was found. The order is that of the run, whatever its ties.

    Raises:
        InvalidInputError: No query of the run has judgements, or an argument is of another type.
    """
    per_query = figures(data, run)
    values = np.array([list(per_query[name].values()) for name in MEASURES])
    return Result(
        run=run,
        per_query=per_query,
        means=dict(zip(MEASURES, values.mean(axis=1).tolist(), strict=True)),
        intervals=dict(zip(MEASURES, bootstrap_intervals(values), strict=True)),
    )


def figures(data: Dataset, run: Run) -> dict[str, dict[str, float]]:
    """By measure and judged query, as in `measure_run`."""
    check_data(data)
    check_run(run)
    ir_measures = import_extra("ir_measures")
    # ranks instead of scores: trec_eval would reorder equal scores, and round others until they are equal
    ranked = {
        query: {document: float(-rank) for rank, (document, _) in enumerate(ranking)}
        for query, ranking in run.rankings.items()
        if query in data.qrels
    }
    if run.rankings and not ranked:
        raise InvalidInputError(
            f"no query of the run {run.name!r} is judged in {data.name!r}; measure it with its own data"
        )
    parsed = {ir_measures.parse_measure(theirs): ours for ours, theirs in MEASURES.items()}
    per_query: dict[str, dict[str, float]] = {name: dict.fromkeys(data.judged, 0.0) for name in MEASURES}
    for found in ir_measures.iter_calc(list(parsed), data.qrels, ranked):
        per_query[parsed[found.measure]][found.query_id] = float(found.value)
    return per_query


def compare(first: Result, second: Result, measure: str = "nDCG@10") -> Comparison:
    """Whether the first is better than the second, and how sure that is.

    Raises:
        InvalidInputError: No such measure, one is no result, or the two were measured on different queries.
    """
    for result in (first, second):
        if not isinstance(result, Result):
            raise InvalidInputError(
                f"compare takes two results, such as report['hybrid'] or measure_run(data, run), not a "
                f"{type(result).__name__}"
            )
    check_measure(measure)
    ours, theirs = first.per_query[measure], second.per_query[measure]
    if ours.keys() != theirs.keys():
        raise InvalidInputError(
            f"{first.name!r} and {second.name!r} were measured on different queries; take the same data"
        )
    differences = np.array([ours[query] - theirs[query] for query in ours])
    return Comparison(
        measure=measure,
        first=first.name,
        second=second.name,
        difference=float(differences.mean()),
        interval=bootstrap_intervals(differences[None])[0],
        p_value=randomisation_test(differences),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def bootstrap_intervals(
    values: NDArray[np.float64], *, resamples: int = _RESAMPLES, seed: int = _SEED
) -> list[tuple[float, float]]:
    """The 95 % percentile interval of each row's mean (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: float64 (measures, queries); the queries are drawn with replacement, the same for all rows.
        resamples: How often.
        seed: Of the draws.

    Returns:
        (lower, upper) for each row.
    """
    rng = np.random.default_rng(seed)
    queries = values.shape[1]
    means = []
    for rows in _blocks(resamples, queries):
        drawn = rng.integers(queries, size=(rows, queries)) + np.arange(rows)[:, None] * queries
        times = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        means.append(times @ values.T / queries)
    bounds = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return [(lower, upper) for lower, upper in bounds.T.tolist()]


def randomisation_test(differences: NDArray[np.float64], *, resamples: int = _RESAMPLES, seed: int = _SEED) -> float:
    """Two-sided p-value that the mean is 0, by random signs (Smucker, Allan and Carterette, CIKM 2007).

    Args:
        differences: float64 (queries,).
        resamples: How often signs are drawn; the drawn signs count themselves among them, so p is at least
            1 / (resamples + 1).
        seed: Of the draws.
    """
    differences = differences[differences != 0]  # signs don't change these
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(differences.sum()) * (1 - 1e-12)  # sums in another order differ in the last digits
    as_large = 0
    for rows in _blocks(resamples, len(differences)):
        signs = rng.integers(2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_large += int((np.abs(signs @ differences) >= observed).sum())
    return (as_large + 1) / (resamples + 1)


def check_measure(measure: str) -> None:
    """Raise InvalidInputError unless there is such a measure."""
    if not isinstance(measure, str) or measure not in MEASURES:
        raise InvalidInputError(f"measure={measure!r} is none of {', '.join(MEASURES)}")


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """The rows in lots of about `_BLOCK` numbers."""
    most = max(1, _BLOCK // columns)
    for first in range(0, rows, most):
        yield min(most, rows - first)
