"""What a process of a job runs. It imports little, because each process of a test imports it."""

from typing import Any

from bge_integrations.core import loading  # noqa: F401  # so that a fork server imports torch once
from bge_integrations.jobs.embedding import EmbeddingJob


def run_job(corpus: str, output: str, counts: Any = None) -> None:
    """Run a job, and put the number of its rows into the queue `counts`."""
    with EmbeddingJob(corpus, output, "pocket", rows_per_file=40) as job:
        report = job.run()
    if counts is not None:
        counts.put(report.rows)
