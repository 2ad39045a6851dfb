"""Encode single long texts with bge-m3 and all three outputs: time, and memory on top of the weights.

    python benchmarks/long_texts.py

writes benchmarks/long_texts.json. The model has bge-m3's size and random weights. Linux only.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from checkpoints import CHECKPOINTS, long_passages, random_m3
from options import add_results, positive
from timing import machine
from workloads import memory_mb

from bge_integrations import load_embedder

RESULTS = Path(__file__).parent / "long_texts.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--longest", type=positive, default=8192, help="tokens of the longest text (the default takes 2 minutes)"
    )
    add_results(parser, RESULTS)
    options = parser.parse_args()
    longest = options.longest
    folder = random_m3(CHECKPOINTS)
    results: dict[str, Any] = {"machine": machine(), "weights, MB": round(_weights_mb(folder)), "texts": []}
    with load_embedder(str(folder), device="cpu", max_length=longest) as embedder:
        embedder.encode(["a short text"], sparse=True, multi_vector=True)
        before = memory_mb("VmRSS")
        for text in long_passages(longest):
            begin = time.perf_counter()
            embedder.encode([text], sparse=True, multi_vector=True)
            spent = time.perf_counter() - begin
            row = {
                "tokens": embedder.count_tokens([text])[0],
                "seconds": round(spent, 2),
                "most memory over the loaded model, MB": round(memory_mb("VmHWM") - before),
            }
            results["texts"].append(row)
            print(row, flush=True)
    options.results.write_text(json.dumps(results, indent=1) + "\n")


def _weights_mb(folder: Path) -> float:
    return (folder / "model.safetensors").stat().st_size / 1e6


if __name__ == "__main__":
    main()
