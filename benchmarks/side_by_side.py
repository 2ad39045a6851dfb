"""Compare this package with its alternatives, on the same texts and weights.

    make bench

Each peer runs in its own process, which is paused except when it is its turn, so only one computes at a time. Each
round runs all of them in order; a ratio is a peer's time over ours in the same round, so that drifts in the machine's
speed cancel out. Weights are random, in the published sizes. Writes benchmarks/results.json after each workload, and
finally the tables and the plot of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import report
from checkpoints import CHECKPOINTS, questions, random_embedder, random_m3, random_reranker, varied_passages
from options import add_results, positive
from peers import OURS, OWN_CEILINGS, PEERS
from rich.console import Console
from timing import gemm_gflops, machine, ratio
from transformers import AutoTokenizer
from workloads import WORKLOADS, Given, memory_mb

from bge_integrations.core import runtime

_WORKER = Path(__file__).parent / "worker.py"
#: A peer that takes longer than this for one order is killed.
_PATIENCE_SECONDS = 900
#: A peer is also killed if it leaves less than this share of the machine's memory free.
_FREE_MEMORY = 0.1
#: A peer with more resident megabytes than this is restarted for the next workload, so that all fit in memory.
_KEPT_MB = 1500


class PeerError(Exception):
    """The peer failed; the message says why."""


class Process:
    """A peer's process, which is paused unless it handles an order."""

    def __init__(self, name: str, log: Path) -> None:
        command = [str(PEERS[name].python), str(_WORKER), name]
        self._log = log.open("a")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1"},
        )

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Send an order and return the answer.

        Raises:
            PeerError: It failed, took too long or too much memory, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(f"its process ended with status {self._process.wait()}") from None
        begin = time.monotonic()
        while not select.select([self._process.stdout], [], [], 0.5)[0]:
            for limit, passed in (
                (f"{_PATIENCE_SECONDS} s", time.monotonic() - begin > _PATIENCE_SECONDS),
                ("the available memory", free_memory() < _FREE_MEMORY),
            ):
                if passed:
                    self._process.kill()
                    self._process.wait()
                    raise PeerError(f"it took more than {limit}")
        line = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not line:
            raise PeerError(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def resident_mb(self) -> float:
        return memory_mb("VmRSS", str(self._process.pid))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class Field:
    """The chosen peers and their processes, each started on first use.

    Attributes:
        skipped: Why some peers are skipped.
        versions: The versions of the other peers' distributions.
    """

    def __init__(self, names: list[str], given: Given, log: Path) -> None:
        self._given, self._log = given, log
        self._processes: dict[str, Process] = {}
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        for name in names:
            with self._fresh(name) as process:
                versions = process.ask("versions")["versions"]
            missing = [distribution for distribution, version in versions.items() if not version]
            if missing:
                self.skipped[name] = f"not installed: {', '.join(missing)}"
            else:
                self.versions[name] = versions

    def _process(self, name: str) -> Process:
        if name not in self._processes or not self._processes[name].is_running:
            self._processes[name] = Process(name, self._log)
        return self._processes[name]

    @contextmanager
    def _fresh(self, name: str) -> Iterator[Process]:
        process = Process(name, self._log)
        try:
            yield process
        finally:
            process.close()

    def measure(self, workload: str, rounds: int, seconds: float) -> dict[str, Any]:
        """Run alternating rounds of the peers that support the workload, and compare their outputs with ours.

        Args:
            workload: A key of WORKLOADS.
            rounds: Maximum number of rounds.
            seconds: No further round starts after this time.
        """
        for name, process in list(self._processes.items()):
            if process.resident_mb > _KEPT_MB:
                self._processes.pop(name).close()
        with ExitStack() as stack:
            outputs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            lacking: dict[str, str] = {}
            runs: dict[str, list[dict[str, Any]]] = {}
            for name in self.versions:
                try:
                    if missing := self._process(name).ask("lacks", workload=workload)["lacks"]:
                        lacking[name] = f"has no {missing}"
                        continue
                    if not WORKLOADS[workload].fresh:
                        self._process(name).ask("prepare", workload=workload, given=self._given._asdict())
                    runs[name] = []
                except PeerError as error:
                    lacking[name] = f"failed: {error}"
            if WORKLOADS[workload].fresh:
                self.close()  # frees the memory of the loaded models for the new processes
            begin = time.monotonic()
            for done in range(rounds):
                if done and time.monotonic() - begin > seconds:
                    break
                for name in list(runs):
                    try:
                        runs[name].append(self._run(name, workload, outputs / f"{name}.npz"))
                    except PeerError as error:
                        del runs[name]
                        lacking[name] = f"failed: {error}"
            found = {name: _summary(measured) for name, measured in runs.items()}
            if OURS in runs:
                for name in set(runs) - {OURS}:
                    theirs, ours = ([run["seconds"] for run in runs[who]] for who in (name, OURS))
                    found[name]["ratio"] = ratio(theirs, ours)
                    found[name]["difference"] = _difference(outputs / f"{name}.npz", outputs / f"{OURS}.npz")
        return {"peers": found, "not measured": lacking}

    def _run(self, name: str, workload: str, outputs: Path) -> dict[str, Any]:
        """Run a workload once and write its outputs to a file."""
        with ExitStack() as stack:
            if WORKLOADS[workload].fresh:
                process = stack.enter_context(self._fresh(name))
                process.ask("prepare", workload=workload, given=self._given._asdict())
            else:
                process = self._process(name)
            measured: dict[str, Any] = process.ask("run")["measured"]
            process.ask("outputs", file=str(outputs))
        return measured

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes.clear()


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the seconds of all runs, the median of each other measure, and the percentiles of single queries."""
    found: dict[str, Any] = {"rounds": [run["seconds"] for run in runs]}
    latencies = [spent for run in runs for spent in run.pop("latencies", [])]
    for measure in runs[0]:
        found[measure] = statistics.median(run[measure] for run in runs)
    if latencies:
        found["query p50"], found["query p99"] = np.percentile(latencies, [50, 99]).tolist()
    return found


def _difference(theirs: Path, ours: Path) -> float | str:
    """Return the largest difference between the outputs of two runs, or how their shapes differ."""
    with np.load(theirs) as their_arrays, np.load(ours) as our_arrays:
        largest = 0.0
        for name in our_arrays.files:
            if their_arrays[name].shape != our_arrays[name].shape:
                return f"{their_arrays[name].shape} instead of {our_arrays[name].shape}"
            largest = float(np.maximum(largest, np.abs(their_arrays[name] - our_arrays[name]).max()))  # keeps NaN
        return largest


def roofline(given: Given, measured: dict[str, Any], ceiling: dict[str, float]) -> dict[str, Any]:
    """Return the GFLOP/s of our linears over the time of a whole run, and those of a bare matrix product.

    In the last layer only queries, keys and values are computed for every token.
    """
    found: dict[str, Any] = {"ceiling": ceiling}
    computed: dict[str, tuple[str, tuple[list[str], ...]]] = {
        "bulk-small": ("small", (varied_passages(given.passages),)),
        "bulk-base": ("base", (varied_passages(given.part(4)),)),
        "rerank-32": ("reranker", (questions(1) * 32, varied_passages(32))),
        "threads-64": ("small", (questions(max(given.queries, 64)),)),
    }
    for workload, (model, columns) in computed.items():
        peers = measured.get(workload, {}).get("peers", {})
        spent = {name: peers[name]["seconds"] for name in OWN_CEILINGS if name in peers}
        if not spent:
            continue
        folder = Path(given.folders[model])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = sum(map(len, tokenizer(*columns, truncation=True, max_length=512)["input_ids"]))
        config = json.loads((folder / "config.json").read_text())
        work = 2 * (12 * (config["num_hidden_layers"] - 1) + 3) * config["hidden_size"] ** 2 * tokens / 1e9
        speeds = {name: work / seconds for name, seconds in spent.items()}
        found[workload] = {"tokens": tokens, "GFLOP/s of the linears": speeds}
    return found


def free_memory() -> float:
    """Return the share of the machine's memory that is available; 1 if that is unknown."""
    account = Path("/proc/meminfo")
    rows = dict(row.split(":") for row in account.read_text().splitlines()) if account.exists() else {}
    return int(rows["MemAvailable"].split()[0]) / int(rows["MemTotal"].split()[0]) if rows else 1


def chosen(kind: str, known: dict[str, Any], text: str) -> list[str]:
    """Return the comma-separated names; "all" means all of them."""
    names = list(known) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"unknown {kind} {', '.join(unknown)}; use some of {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=f"{__doc__.splitlines()[0]} All workloads with 15 peers take an hour or more on 2 cores."
    )
    parser.add_argument("--workloads", default="all", help=f"some of: {', '.join(WORKLOADS)}")
    parser.add_argument("--peers", default="all", help=f"some of: {', '.join(PEERS)} (ours is always measured)")
    parser.add_argument("--rounds", type=positive, default=5, help="maximum rounds per workload")
    parser.add_argument(
        "--seconds", type=float, default=45, help="start no further round of a workload after this time"
    )
    parser.add_argument(
        "--passages", type=positive, default=256, help="passages in the bulk workload of bge-small size"
    )
    parser.add_argument("--queries", type=positive, default=256, help="queries in one round of threads or tasks")
    parser.add_argument("--longest", type=positive, default=8192, help="tokens of the longest of the mixed texts")
    add_results(parser, report.RESULTS, otherwise="; with another file, the page is not updated")
    options = parser.parse_args()
    if options.results == report.RESULTS.resolve() and (options.workloads, options.peers) != ("all", "all"):
        parser.error("docs/performance.md needs all workloads and peers; add --results FILE to measure only some")
    workloads = chosen("workload", WORKLOADS, options.workloads)
    peers = [OURS, *(name for name in chosen("peer", PEERS, options.peers) if name != OURS)]
    console = Console()
    folders = {
        "small": random_embedder(CHECKPOINTS, "small"),
        "base": random_embedder(CHECKPOINTS, "base"),
        "reranker": random_reranker(CHECKPOINTS),
        "m3": random_m3(CHECKPOINTS),
        "m3, 4 layers": random_m3(CHECKPOINTS / "4-layers", layers=4),
    }
    given = Given(
        {name: str(folder) for name, folder in folders.items()}, options.passages, options.queries, options.longest
    )
    results: dict[str, Any] = {
        "machine": machine(),
        "options": {**vars(options), "results": options.results.name, "batch tokens": runtime.policy.cpu_batch_tokens},
    }
    ceiling = results["machine"]["matmul ceilings, GFLOP/s"]
    log = Path(tempfile.gettempdir()) / "bge-benchmark.log"
    log.write_text("")
    field = Field(peers, given, log)
    try:
        results |= {"versions": field.versions, "skipped": field.skipped, "workloads": {}}
        for name, why in field.skipped.items():
            console.print(f"skipped: {name} ({why}; run `make bench-peers` to install it)")
        begin = time.monotonic()
        for workload in workloads:
            console.print(f"{time.monotonic() - begin:5.0f} s: {WORKLOADS[workload].named(given)}")
            found = field.measure(workload, options.rounds, options.seconds)
            results["workloads"][workload] = {"title": WORKLOADS[workload].named(given), **found}
            for name, why in found["not measured"].items():
                if why.startswith("failed"):
                    console.print(f"         {name} {why}", markup=False)
            options.results.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        field.close()
    ceiling = {name: max(best, ceiling[name]) for name, best in gemm_gflops().items()}
    results["roofline"] = roofline(given, results["workloads"], ceiling)
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    if options.results == report.RESULTS.resolve():
        report.main()
    else:
        print(report.markdown(results))
    console.print(f"{time.monotonic() - begin:.0f} s; output of the peers: {log}")


if __name__ == "__main__":
    main()
