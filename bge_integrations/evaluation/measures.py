"""Measure runs: values per query, means with confidence intervals, and the comparison of two runs."""

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

#: The measures, with their names in ir-measures.
MEASURES = {"nDCG@10": "nDCG@10", "Recall@100": "R@100", "MRR@10": "RR@10", "MAP": "AP"}
#: Number of top documents that each measure depends on; None means all.
DEPTHS = {"nDCG@10": 10, "Recall@100": 100, "MRR@10": 10, "MAP": None}

_RESAMPLES = 10_000
_SEED = 0
#: Random numbers drawn at a time: 32 MB.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Result:
    """A run and its measures.

    Attributes:
        run: The run that was measured.
        per_query: Values from 0 to 1 by measure and query id, for all judged queries; 0 if nothing was found.
        means: Means over these queries, by measure.
        intervals: 95 % bootstrap percentile intervals of the means, by measure.
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
    """The paired comparison of two runs by one measure.

    Attributes:
        measure: Such as "nDCG@10".
        first, second: Names of the runs.
        difference: Mean of the first minus mean of the second.
        interval: 95 % bootstrap percentile interval of the difference.
        p_value: Two-sided p-value of the paired randomisation test: how often a difference this large occurs if the two
            values of each query are swapped at random. Not corrected for multiple comparisons.
        wins, ties, losses: Number of queries for which the first run is better, equal or worse.
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

    They are defined as in trec_eval and BEIR: gains are the grades themselves, and documents without a judgement and
    queries without results count as 0. Documents are ranked in the order of the run, even if scores are equal.

    Raises:
        InvalidInputError: No query of the run has judgements, or an argument has the wrong type.
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
    """Return the values of `measure_run` by measure and judged query."""
    check_data(data)
    check_run(run)
    ir_measures = import_extra("ir_measures")
    # ranks instead of scores, because trec_eval rounds scores and reorders ties
    ranked = {
        query: {document: float(-rank) for rank, (document, _) in enumerate(ranking)}
        for query, ranking in run.rankings.items()
        if query in data.qrels
    }
    if run.rankings and not ranked:
        raise InvalidInputError(
            f"no query of the run {run.name!r} has judgements in {data.name!r}",
            argument="run",
            advice="measure it with the data that it was made from",
        )
    parsed = {ir_measures.parse_measure(theirs): ours for ours, theirs in MEASURES.items()}
    per_query: dict[str, dict[str, float]] = {name: dict.fromkeys(data.judged, 0.0) for name in MEASURES}
    for metric in ir_measures.iter_calc(list(parsed), data.qrels, ranked):
        per_query[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return per_query


def compare(first: Result, second: Result, measure: str = "nDCG@10") -> Comparison:
    """Compare two results by one measure, with a confidence interval and a significance test.

    Raises:
        InvalidInputError: There is no such measure, an argument is not a `Result`, or the results are for different
            queries.
    """
    for argument, result in (("first", first), ("second", second)):
        if not isinstance(result, Result):
            raise InvalidInputError(
                f"{argument} must be a Result, got {type(result).__name__}",
                argument=argument,
                advice="pass report['hybrid'] or measure_run(data, run)",
            )
    check_measure(measure)
    ours, theirs = first.per_query[measure], second.per_query[measure]
    if ours.keys() != theirs.keys():
        raise InvalidInputError(
            f"{first.name!r} and {second.name!r} were measured on different queries",
            argument="second",
            advice="measure both with the same data",
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
    """Return the 95 % percentile interval of each row's mean (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: float64 (measures, queries). Queries are drawn with replacement, the same for all rows.
        resamples: Number of resamples.
        seed: Seed of the random numbers.

    Returns:
        (lower, upper) for each row.
    """
    rng = np.random.default_rng(seed)
    queries = values.shape[1]
    means = []
    for rows in _blocks(resamples, queries):
        drawn = rng.integers(queries, size=(rows, queries)) + np.arange(rows)[:, None] * queries
        counts = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        means.append(counts @ values.T / queries)
    bounds = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return [(lower, upper) for lower, upper in bounds.T.tolist()]


def randomisation_test(differences: NDArray[np.float64], *, resamples: int = _RESAMPLES, seed: int = _SEED) -> float:
    """Return the two-sided p-value for a mean of 0, by random signs (Smucker, Allan and Carterette, CIKM 2007).

    Args:
        differences: float64 (queries,).
        resamples: Number of random sign vectors. The observed one is counted as well, so p is at least
            1 / (resamples + 1).
        seed: Seed of the random numbers.
    """
    differences = differences[differences != 0]  # a sign does not change 0
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(differences.sum()) * (1 - 1e-12)  # tolerates rounding: summation order changes the last digits
    as_large = 0
    for rows in _blocks(resamples, len(differences)):
        signs = rng.integers(2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_large += int((np.abs(signs @ differences) >= observed).sum())
    return (as_large + 1) / (resamples + 1)


def check_measure(measure: str) -> None:
    """Raise InvalidInputError unless `measure` is one of `MEASURES`."""
    if not isinstance(measure, str) or measure not in MEASURES:
        raise InvalidInputError(
            f"measure={measure!r} is not supported", argument="measure", advice=f"use one of {', '.join(MEASURES)}"
        )


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Yield row counts that split the rows into blocks of about `_BLOCK` numbers."""
    most = max(1, _BLOCK // columns)
    for first in range(0, rows, most):
        yield min(most, rows - first)
