"""Estimate what a job will take, from a sample of its rows."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from bge_integrations.jobs.embedding import EmbeddingJob


@dataclass(frozen=True)
class Estimate:
    """What one process on this machine would take for a whole job.

    Attributes:
        rows, files: Rows of the input, and files of the output.
        sampled_rows: The rows that were embedded for the estimate.
        rows_per_second: Their speed.
        seconds: The time for all rows.
        bytes: The size of the output, in bytes.
        cost: The price of that time; None if no price is given.
    """

    rows: int
    files: int
    sampled_rows: int
    rows_per_second: float
    seconds: float
    bytes: int
    cost: float | None


def estimate(job: EmbeddingJob, price_per_hour: float | None = None) -> Estimate:
    """Embed a few rows from everywhere in the input, twice, and scale the second time up to all rows.

    Small samples pack less well than whole batches, so the real job is usually faster.

    Args:
        job: The job, which does not need to be run for this.
        price_per_hour: What the machine costs, in any currency.
    """
    for _ in job.sample(parts=1):
        pass  # memory, threads and kernels are set up now
    tables, times = zip(*job.sample(), strict=True)
    rows, spent = sum(map(len, tables)), sum(times)
    file = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), file, compression="zstd")
    seconds = job.plan.rows * spent / rows
    return Estimate(
        rows=job.plan.rows,
        files=len(job.plan.parts),
        sampled_rows=rows,
        rows_per_second=rows / spent,
        seconds=seconds,
        bytes=round(file.tell() * job.plan.rows / rows),
        cost=None if price_per_hour is None else price_per_hour * seconds / 3600,
    )
