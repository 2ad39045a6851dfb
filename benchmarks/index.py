"""Benchmark M3Index: insertion and search speed, exactness and memory, also in comparison with other stores.

    python benchmarks/index.py [--documents 20000] [--only storage,insertion,memory,growth,peers]

prints each figure as soon as it is measured, then a Markdown table, and saves each part in benchmarks/index.json. The
vectors come from prepared.py; insertion times exclude the time to create them, and query vectors are created in
advance. Each part runs in its own process. Except in "memory", the index is optimised only on request, so that searches
can be measured before and after.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from index_common import Report, shown
from index_growth import growth
from index_memory import memory, memory_multi
from index_peers import insertion, peers
from index_storage import storage

from bge_integrations.index import optimizing

RESULTS = Path(__file__).parent / "index.json"
PARTS: dict[str, list[Callable[[argparse.Namespace], Report]]] = {
    "storage": [storage],
    "insertion": [insertion],
    "memory": [memory, memory_multi],
    "growth": [growth],
    "peers": [peers],
}


def run(part: Callable[[argparse.Namespace], Report], options: argparse.Namespace) -> Report:
    """Run a part in its own process."""
    if part not in PARTS["memory"]:
        optimizing._UNOPTIMIZED_POINTS = sys.maxsize
    return part(options)


def machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].split(":", 1)[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory, GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        **{name: version(name) for name in ("qdrant-edge-py", "qdrant-client", "chromadb", "FlagEmbedding")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(PARTS), metavar="PART,…")
    parser.add_argument(
        "--documents", type=int, default=20_000, help='number of documents in "storage" and "insertion"'
    )
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help='number of rounds in "insertion"')
    parser.add_argument("--memory-documents", type=int, default=100_000, help="with multi-vectors a twentieth of it")
    parser.add_argument("--peers-documents", type=int, default=2_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--growth-dimension", type=int, default=256)
    parser.add_argument("--longest", type=float, default=900, help='maximum seconds per step of "growth"')
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; use some of {', '.join(PARTS)}")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print(machine())
    for name in options.only:
        for part in PARTS[name]:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                report = process.submit(run, part, options).result()
            results[report.part] = {"machine": machine(), "options": vars(options), "figures": report.figures}
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print("\n| part | what | figures |\n|---|---|---|")
    for name, result in results.items():
        for what, figures in result["figures"].items():
            print(f"| {name} | {what} | {shown(figures)} |")


if __name__ == "__main__":
    main()
