"""Timing helpers: alternating rounds, ratios, and a description of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bge_integrations.models.linear import PrepackedLinear


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(theirs: list[float], ours: list[float]) -> list[float]:
    """Return their time over ours per round that both have: median, smallest and largest."""
    ratios = [their / our for their, our in zip(theirs, ours, strict=False)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def alternate(rounds: int, ours: Callable[[], object], peers: dict[str, Callable[[], object]]) -> dict[str, Any]:
    """Run everything once to warm up, then in turn; return the seconds, and the ratios to ours."""
    everyone = {"ours": ours, **peers}
    for work in everyone.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(rounds):
        for name, work in everyone.items():
            times[name].append(seconds(work))
    return {
        "seconds": {name: statistics.median(spent) for name, spent in times.items()},
        "ratio": {name: ratio(times[name], times["ours"]) for name in peers},
    }


def gemm_gflops() -> dict[str, float]:
    """Return the machine's matmul ceilings: the best of 30 (1024, 768) x (768, 3072) products by dtype.

    float32 and bfloat16 are oneDNN's, also compared with torch.mm.
    """
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    packed = PrepackedLinear(b.T.contiguous(), None)
    half, packed_half = a.bfloat16(), PrepackedLinear(b.T.bfloat16().contiguous(), None)
    a8, b8 = (torch.randint(-127, 128, x.shape, dtype=torch.int8) for x in (a, b.T))
    products: dict[str, Callable[[], object]] = {
        "float32, torch.mm": lambda: torch.mm(a, b),
        "float32": lambda: packed(a),
        "bfloat16": lambda: packed_half(half),
        "int8": lambda: torch._int_mm(a8, b8.T),
    }
    work = 2 * 1024 * 768 * 3072 / 1e9
    with torch.inference_mode():
        return {name: round(work / min(seconds(product) for _ in range(30))) for name, product in products.items()}


def machine() -> dict[str, Any]:
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory, GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "matmul ceilings, GFLOP/s": gemm_gflops(),
        "load before": round(os.getloadavg()[0], 1),
    }
