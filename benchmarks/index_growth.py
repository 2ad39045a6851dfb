"""Searches in ever more documents."""

from __future__ import annotations

import argparse
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
from index_common import NAMES, Report, add, note_searches, workspace
from prepared import Corpus, Prepared, exact_scores

from bge_integrations.index import M3Index

if TYPE_CHECKING:
    from numpy.typing import NDArray


def growth(options: argparse.Namespace) -> Report:
    """Measure searches in ever more dense and sparse vectors, without and with the graph, while time allows."""
    report, queries = Report("growth"), range(options.queries)
    corpus = Corpus(min(options.sizes), options.growth_dimension, with_multi_vectors=False)
    prepared = Prepared(corpus)
    parts: list[dict[str, NDArray[np.float32]]] = []
    stored, adding, building = 0, 0.0, 0.0
    with workspace() as folder:
        for size in sorted(options.sizes):
            what = f"{size} documents of {corpus.dimension} dimensions"
            if adding * (size - stored) > options.longest:
                report.note(what, "not measured")
                continue
            with M3Index.open(folder / "index", prepared, multi_vectors="recompute") as index:
                spent = add(index, corpus, range(stored, size))
                adding = spent / (size - stored)
                report.note(f"{what}, added", {"documents/s": 1 / adding})
                parts.append(exact_scores(corpus, range(stored, size), queries))
                stored = size
                exact = {name: np.concatenate([part[name] for part in parts], axis=1) for name in NAMES}
                parts = [exact]
                note_searches(report, f"{what}, before optimize", index, queries, exact)
            if building * size > options.longest:
                report.note(f"{what}, optimize", "not measured")
                continue
            shutil.copytree(folder / "index", folder / "optimised")
            with M3Index.open(folder / "optimised", prepared) as index:
                start = time.perf_counter()
                index.optimize()
                spent = time.perf_counter() - start
                building = spent / size * 1.5  # a larger graph takes more time per document
                report.note(f"{what}, optimize", {"s": spent})
                note_searches(report, f"{what}, after optimize", index, queries, exact)
            shutil.rmtree(folder / "optimised")
    return report
