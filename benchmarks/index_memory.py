"""The memory of a process that adds documents."""

from __future__ import annotations

import argparse
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from index_common import MULTI_VECTORS, Report, workspace
from prepared import Corpus, Prepared

from bge_integrations.index import M3Index


def memory(options: argparse.Namespace) -> Report:
    """Measure this process's memory while one `add` reads documents from a generator and the index optimises itself."""
    return _memory(options, "memory", options.memory_documents, False)


def memory_multi(options: argparse.Namespace) -> Report:
    """Measure the same as `memory`, with multi-vectors."""
    return _memory(options, f"memory, {MULTI_VECTORS}", options.memory_documents // 20, True)


def _memory(options: argparse.Namespace, part: str, count: int, multi_vectors: bool) -> Report:
    report = Report(part)
    corpus = Corpus(count, with_multi_vectors=multi_vectors)
    samples: list[tuple[int, float, float]] = []
    read, done = 0, threading.Event()

    def texts() -> Iterator[str]:
        nonlocal read
        for i in range(count):
            read = i + 1
            yield corpus.text(i)

    def sample() -> None:
        while not done.wait(0.1):
            samples.append((read, *resident()))

    sampler = threading.Thread(target=sample)
    storing: Literal["float16", "recompute"] = "float16" if multi_vectors else "recompute"
    with workspace() as folder, M3Index.open(folder, Prepared(corpus), multi_vectors=storing) as index:
        before, own_before = resident()
        sampler.start()
        index.add(texts())
        done.set()
        sampler.join()
    documents, everything, own = map(np.array, zip(*samples, strict=True))
    later = documents >= count / 2
    for name, column, begin in (("resident", everything, before), ("of these not of files", own, own_before)):
        slope = float(np.polyfit(documents[later] / 1e3, column[later], 1)[0])
        report.note(
            f"{count} documents, {name}",
            {"MB before": begin, "MB at most": float(column.max()), "MB per 1000 in the second half": slope},
        )
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    report.note(f"{count} documents, the optimiser's process", {"MB at most": children})
    return report


def resident() -> tuple[float, float]:
    """Return the resident MB, and the part that is not file pages, which the system can reclaim."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, int(status["RssAnon"].split()[0]) / 1024
