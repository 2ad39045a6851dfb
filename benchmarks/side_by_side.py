"""Ours beside sentence-transformers, in one process, in alternating rounds, on the same texts.

    make bench

prints a table and writes benchmarks/results.json. Weights are random at the published sizes. Each figure is the median
of the rounds; a ratio is the median of the rounds' ratios, so that a machine whose speed drifts does not matter.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import CHECKPOINTS, passages, questions, random_embedder, random_reranker
from rich.console import Console
from rich.table import Table
from sentence_transformers import CrossEncoder, SentenceTransformer

from bge_integrations import Embedder, load_embedder, load_reranker
from bge_integrations.core.batch import PackedBatch
from bge_integrations.core.prompts import tokenize_texts
from bge_integrations.models.model import EncoderModel, Wanted

RESULTS = Path(__file__).parent / "results.json"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(rounds: int, ours: Callable[[], object], peers: dict[str, Callable[[], object]]) -> dict[str, Any]:
    """Run all once to warm up, then in turn; seconds and ratios to ours, median, smallest and largest."""
    everyone = {"ours": ours, **peers}
    for work in everyone.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(rounds):
        for name, work in everyone.items():
            times[name].append(seconds(work))
    found: dict[str, Any] = {"seconds": {name: statistics.median(spent) for name, spent in times.items()}}
    found["ratio"] = {}
    for name in peers:
        ratios = [peer / own for peer, own in zip(times[name], times["ours"], strict=True)]
        found["ratio"][name] = [statistics.median(ratios), min(ratios), max(ratios)]
    return found


def gemm_gflops() -> float:
    """The machine's float32 matmul ceiling: the best of a few (1024, 768) x (768, 3072) products."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    best = min(seconds(lambda: torch.mm(a, b)) for _ in range(30))
    return 2 * 1024 * 768 * 3072 / best / 1e9


def token_count(embedder: Embedder, texts: list[str]) -> int:
    sequences, _ = tokenize_texts(embedder._session.model.tokenizer, texts, "", 512)
    return sum(map(len, sequences))


def bulk(size: str, count: int, rounds: int) -> dict[str, Any]:
    """Many passages in one call."""
    folder = random_embedder(CHECKPOINTS, size)
    texts = passages(count)
    peer = SentenceTransformer(str(folder), device="cpu")
    with load_embedder(folder, device="cpu") as embedder:

        def encode(batch_size: int) -> Any:
            return peer.encode(texts, batch_size=batch_size, normalize_embeddings=True)

        best = min((2, 4, 8, 16), key=lambda batch: min(seconds(lambda: encode(batch)) for _ in range(2)))
        found = alternate(
            rounds,
            lambda: embedder.encode(texts),
            {"default batch (32)": lambda: encode(32), f"best batch ({best})": lambda: encode(best)},
        )
        found["largest difference"] = float(np.abs(embedder.encode(texts).dense - encode(32)).max())
        found["tokens"] = token_count(embedder, texts)
        model = embedder._session.model
        assert isinstance(model, EncoderModel)
        weights = sum(12 * layer.attention_norm.weight.numel() ** 2 for layer in model._encoder.layers)
        found["GFLOP/s of the linears"] = 2 * weights * found["tokens"] / found["seconds"]["ours"] / 1e9
    return found


def rerank(pairs_count: int, rounds: int) -> dict[str, Any]:
    """One query against some passages."""
    folder = random_reranker(CHECKPOINTS)
    pairs = [(questions(1)[0], text) for text in passages(pairs_count)]
    peer = CrossEncoder(str(folder), device="cpu", max_length=512)
    with load_reranker(folder, device="cpu") as reranker:

        def predict(batch_size: int) -> Any:
            return peer.predict(pairs, batch_size=batch_size, activation_fn=torch.nn.Identity())

        best = min((1, 2, 4, 8), key=lambda batch: min(seconds(lambda: predict(batch)) for _ in range(2)))
        found = alternate(
            rounds,
            lambda: reranker.score(pairs),
            {"default batch (32)": lambda: predict(32), f"best batch ({best})": lambda: predict(best)},
        )
        found["largest difference"] = float(np.abs(reranker.score(pairs) - predict(32)).max())
    return found


def threads(count: int, each: int, rounds: int) -> dict[str, Any]:
    """Threads that embed one query at a time."""
    folder = random_embedder(CHECKPOINTS, "small")
    peer = SentenceTransformer(str(folder), device="cpu")
    work = [questions(count * each)[i * each : (i + 1) * each] for i in range(count)]
    latencies: dict[str, list[float]] = {"ours": [], "sentence-transformers": []}

    def everyone(name: str, encode: Callable[[str], object]) -> None:
        start = threading.Barrier(count)

        def one(queries: list[str]) -> list[float]:
            start.wait()
            return [seconds(lambda query=query: encode(query)) for query in queries]  # type: ignore[misc]

        with ThreadPoolExecutor(count) as pool:
            latencies[name] += [spent for spents in pool.map(one, work) for spent in spents]

    with load_embedder(folder, device="cpu") as embedder:
        found = alternate(
            rounds,
            lambda: everyone("ours", lambda query: embedder.encode([query])),
            {
                "sentence-transformers": lambda: everyone(
                    "sentence-transformers", lambda query: peer.encode([query], normalize_embeddings=True)
                )
            },
        )
        sample = work[0]
        difference = embedder.encode(sample).dense - peer.encode(sample, normalize_embeddings=True)
        found["largest difference"] = float(np.abs(difference).max())
    found["queries per second"] = {name: count * each / spent for name, spent in found["seconds"].items()}
    found["p99 seconds"] = {name: float(np.percentile(spents, 99)) for name, spents in latencies.items()}
    return found


def lone_query(rounds: int) -> dict[str, Any]:
    """One query from one thread, beside the bare forward pass on its token ids."""
    folder = random_embedder(CHECKPOINTS, "small")
    query = questions(1)[0]
    peer = SentenceTransformer(str(folder), device="cpu")
    with load_embedder(folder, device="cpu") as embedder:
        model = embedder._session.model
        sequences, _ = tokenize_texts(model.tokenizer, [query], "", 512)
        wanted = Wanted(pooling="cls")
        return alternate(
            rounds,
            lambda: embedder.encode([query]),
            {
                "bare forward pass": lambda: model(PackedBatch.pack(sequences, model.device), wanted),
                "sentence-transformers": lambda: peer.encode([query], normalize_embeddings=True),
            },
        )


def import_seconds() -> float:
    """`import bge_integrations` in a fresh process, less the start of an empty one; median of 7."""

    def run(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    return statistics.median(run("import bge_integrations") - run("pass") for _ in range(7))


def machine() -> dict[str, Any]:
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "float32 matmul ceiling, GFLOP/s": round(gemm_gflops()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=256)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console = Console()
    results: dict[str, Any] = {"machine": machine()}
    jobs: dict[str, Callable[[], Any]] = {
        f"bge-small, {options.passages} passages": lambda: bulk("small", options.passages, options.rounds),
        f"bge-base, {options.passages // 2} passages": lambda: bulk("base", options.passages // 2, options.rounds),
        "reranker-base, 32 pairs": lambda: rerank(32, options.rounds),
        "bge-small, 64 threads of single queries": lambda: threads(64, 4, options.rounds),
        "bge-small, a lone query": lambda: lone_query(20 * options.rounds),
    }
    for name, job in jobs.items():
        console.print(f"running: {name}")
        results[name] = job()
    results["import bge_integrations, seconds"] = import_seconds()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    table = Table(
        "workload", "peer", "ours, s", "peer, s", "ratio (min to max)", "difference", title=str(results["machine"])
    )
    for name in jobs:
        found = results[name]
        for peer, (middle, low, high) in found["ratio"].items():
            difference = f"{found['largest difference']:.1e}" if "largest difference" in found else ""
            spent = found["seconds"]
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            table.add_row(name, peer, f"{spent['ours']:.4f}", f"{spent[peer]:.4f}", ratio, difference)
    console.print(table)
    for name, found in results.items():
        for key in ("tokens", "GFLOP/s of the linears", "queries per second", "p99 seconds"):
            if isinstance(found, dict) and key in found:
                console.print(f"{name}: {key} {found[key]}")
    console.print(f"import bge_integrations: {results['import bge_integrations, seconds']:.3f} s; all in {RESULTS}")


if __name__ == "__main__":
    main()
