"""Simulate a job on 8 to 512 GPUs: how long it takes, and what the GPUs wait for.

    python benchmarks/cluster_simulation.py

prints the table in docs/scale.md. This is arithmetic with the assumptions below, not a measurement: replace them by
what `bge embed --dry-run` and your storage show. One process per GPU takes one file at a time. Within a file, reading,
tokenising, computing and writing overlap, so the slowest of them determines the rate. Reading and writing share the
network of a machine and the storage of all.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Assumptions:
    """A corpus, a model and a cluster.

    Attributes:
        rows, row_tokens, row_bytes: The corpus: number of rows, tokens per row, bytes per row in the input files.
        output_bytes: Bytes written per row: 4096 for a dense vector of 1024 dimensions in float32.
        input_files: Number of input files. Each process reads the first and last megabyte of each, to notice changes.
        file_seconds: Seconds until the storage answers, per input file.
        rows_per_file: As in `EmbeddingJob`.
        flops_per_token: bge-m3 has 303 million weights besides its token embeddings; each is one multiply and one add.
        gpu_flops: What one GPU sustains on packed batches: 40 % of 989 TFLOP/s, an H100's or H200's peak in bfloat16.
        cores: Cores per GPU, which tokenise.
        tokens_per_core: Tokens per second that one core tokenises.
        machine_gpus: GPUs per machine.
        machine_network, storage: Bytes per second of a machine's network, and of the storage for all machines.
        start_seconds: From the start of a process to its first batch: imports, weights, warming up.
        planned_rows: Rows per second of the process that reads JSON lines to write the plan; None for columnar files,
            of which only the schema is read.
    """

    rows: int = 1_000_000_000
    row_tokens: int = 200
    row_bytes: int = 900
    output_bytes: int = 4096
    input_files: int = 2000
    file_seconds: float = 0.05
    rows_per_file: int = 50_000
    flops_per_token: float = 2 * 303e6
    gpu_flops: float = 0.4 * 989e12
    cores: int = 16
    tokens_per_core: float = 400_000
    machine_gpus: int = 8
    machine_network: float = 3e9
    storage: float = 20e9
    start_seconds: float = 60
    planned_rows: float | None = None


@dataclass(frozen=True)
class Simulated:
    """The result.

    Attributes:
        seconds: From the start of all processes to the end of the last one.
        used: The share of this time in which a GPU computes.
        waits: Seconds that a GPU waits on average, by reason.
    """

    seconds: float
    used: float
    waits: dict[str, float]


def rates(given: Assumptions, gpus: int) -> dict[str, float]:
    """Return the rows per second of each stage for one GPU, if all GPUs work at the same time."""
    return {
        "reading and writing": bandwidth(given, gpus) / (given.row_bytes + given.output_bytes),
        "tokenising": given.cores * given.tokens_per_core / given.row_tokens,
        "computing": given.gpu_flops / (given.flops_per_token * given.row_tokens),
    }


def bandwidth(given: Assumptions, gpus: int) -> float:
    """Return the bytes per second of each process if all read or write at the same time."""
    machines = -(-gpus // given.machine_gpus)
    return min(given.machine_network * machines, given.storage) / gpus


def simulate(given: Assumptions, gpus: int) -> Simulated:
    """Let each GPU take the next file when it has finished one."""
    by_stage = rates(given, gpus)
    slowest = min(by_stage, key=lambda stage: by_stage[stage])
    planning = 0.0 if given.planned_rows is None else given.rows / given.planned_rows
    checking = given.input_files * (given.file_seconds + (2 << 20) / bandwidth(given, gpus))
    begin = checking + planning + given.start_seconds
    free = [begin] * gpus
    for first in range(0, given.rows, given.rows_per_file):
        rows = min(given.rows_per_file, given.rows - first)
        heapq.heapreplace(free, free[0] + rows / by_stage[slowest])
    end = max(free)
    computing = given.rows / by_stage["computing"] / gpus
    busy = given.rows / by_stage[slowest] / gpus
    waits = {"checking the inputs": checking, "planning": planning, "starting": given.start_seconds}
    waits["the last files"] = end - begin - busy
    return Simulated(end, computing / end, {**waits, slowest: busy - computing})


def table() -> str:
    """Return the Markdown table of docs/scale.md."""
    given = Assumptions()
    cases = {
        "dense, float32, from Parquet": given,
        "dense, float32, from JSON lines": replace(given, planned_rows=100_000),
        "multi-vectors, float16, from Parquet": replace(given, output_bytes=4096 + given.row_tokens * 2048),
    }
    lines = ["| output and input | GPUs | hours | rows/s | GPUs computing | most of the waiting is for |"]
    lines.append("|---|---|---|---|---|---|")
    for name, assumed in cases.items():
        for gpus in (8, 64, 512):
            found = simulate(assumed, gpus)
            figures = f"{found.seconds / 3600:.1f} | {assumed.rows / found.seconds:,.0f} | {found.used:.0%}"
            lines.append(f"| {name} | {gpus} | {figures} | {max(found.waits, key=lambda part: found.waits[part])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
