"""Insertion, searches before and after `optimize`, filters, the size on disk, and reopening."""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from index_common import (
    MULTI_VECTORS,
    TAGS,
    Report,
    add,
    exact_hybrid,
    latency,
    note_searches,
    overlap,
    percentiles,
    search,
    size_on_disk,
    workspace,
)
from prepared import Corpus, Prepared, exact_scores

from bge_integrations.index import M3Index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index import Hit


def storage(options: argparse.Namespace) -> Report:
    """Measure insertion, searches before and after `optimize`, the size on disk, and reopening."""
    report, count, queries = Report("storage"), options.documents, range(options.queries)
    corpus = Corpus(count)
    prepared = Prepared(corpus)
    with workspace() as folder:
        with M3Index.open(folder / "two", prepared, multi_vectors="recompute") as index:
            report.note("insertion, dense and sparse", {"documents/s": count / add(index, corpus, range(count))})
            report.note("on disk, dense and sparse", {"MB": size_on_disk(folder / "two")})
        shutil.rmtree(folder / "two")
        with M3Index.open(folder / "index", prepared) as index:
            report.note(f"insertion, {MULTI_VECTORS}", {"documents/s": count / add(index, corpus, range(count))})
            report.note(f"on disk, {MULTI_VECTORS}", {"MB": size_on_disk(folder / "index")})
            exact = exact_scores(corpus, range(count), queries)
            note_searches(report, "before optimize", index, queries, exact)
            note_optimize(report, index, queries)
            note_searches(report, "after optimize", index, queries, exact)
            report.note(f"on disk, {MULTI_VECTORS}, optimised", {"MB": size_on_disk(folder / "index")})
            note_filtered(report, index, queries, exact)
        start = time.perf_counter()
        with M3Index.open(folder / "index", prepared) as index:
            opened = time.perf_counter()
            search(index, 0, "hybrid of three")
            report.note("open again", {"s": opened - start, "first search s": time.perf_counter() - opened})
    return report


def note_optimize(report: Report, index: M3Index, queries: Sequence[int]) -> None:
    """Report the time of `optimize`, and the latencies of threads that search and write in the meantime."""
    done = threading.Event()

    def again_and_again(work: Callable[[int], object], pause: float) -> tuple[threading.Thread, list[float]]:
        spent: list[float] = []

        def go_on() -> None:
            while not done.wait(pause):
                start = time.perf_counter()
                work(len(spent))
                spent.append(1e3 * (time.perf_counter() - start))

        thread = threading.Thread(target=go_on)
        thread.start()
        return thread, spent

    (text,) = (entry.text for entry in index.get(["0"]))
    searching, searches = again_and_again(
        lambda i: search(index, queries[i % len(queries)], "hybrid of dense and sparse"), pause=0
    )
    writing, writes = again_and_again(
        lambda i: index.add([text], ids=["0"], metadatas=[{"tag": "0", "change": str(i)}]), pause=0.05
    )
    start = time.perf_counter()
    index.optimize()
    seconds = time.perf_counter() - start
    done.set()
    searching.join()
    writing.join()
    report.note("optimize, with searches and writes all the while", {"s": seconds})
    for what, spent in (("hybrid of dense and sparse", searches), ("a change of metadata", writes)):
        report.note(f"{what}, during optimize", {**percentiles(spent), "longest ms": max(spent)})


def note_filtered(
    report: Report, index: M3Index, queries: Sequence[int], exact: dict[str, NDArray[np.float32]]
) -> None:
    """Report searches that are filtered to the documents of one tag."""
    for name in ("hybrid of three", "hybrid of dense and sparse"):

        def filtered(query: int, name: str = name) -> list[Hit]:
            return search(index, query, name, filter={"tag": str(query % TAGS)})

        scores = exact_hybrid(exact, name).copy()
        for row, query in zip(scores, queries, strict=True):
            row[np.arange(len(row)) % TAGS != query % TAGS] = -np.inf
        found = [[hit.id for hit in filtered(query)] for query in queries]
        report.note(
            f"{name}, a filter that 1 of {TAGS} passes",
            {**latency(filtered, queries), "overlap": overlap(found, scores)},
        )
