"""What the parts of the benchmark of M3Index share: reports, timing, and the searches that are timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prepared import Corpus, Prepared

from bge_integrations.index import M3Index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index import Hit


CALL = 256  # documents of one `add`
TAGS = 50
K = 10
MULTI_VECTORS = "with multi-vectors"
#: The searches that are timed, and their weights for dense, sparse and multi-vector scores.
SEARCHES: dict[str, tuple[float, float, float]] = {
    "hybrid of three": (1, 1, 1),
    "hybrid of dense and sparse": (1, 1, 0),
    "dense": (1, 0, 0),
    "sparse": (0, 1, 0),
}
NAMES = ("dense", "sparse", "multi_vector")

Figures = dict[str, float]


@dataclass
class Report:
    """The measurements of one part, printed as soon as they are made."""

    part: str
    figures: dict[str, Figures | str] = field(default_factory=dict)

    def note(self, what: str, figures: Figures | str) -> None:
        self.figures[what] = figures
        print(f"{self.part}: {what}: {shown(figures)}", flush=True)


def shown(figures: Figures | str) -> str:
    return figures if isinstance(figures, str) else ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


@contextmanager
def workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bge-index-benchmark-") as folder:
        yield Path(folder)


def add(index: M3Index, corpus: Corpus, numbers: range) -> float:
    """Add documents, 256 per call, and return the seconds without the time to create their vectors."""
    prepared = index.embedder
    assert isinstance(prepared, Prepared)
    start, before = time.perf_counter(), prepared.seconds
    for begin in numbers[::CALL]:
        some = range(begin, min(begin + CALL, numbers.stop))
        index.add(
            [corpus.text(i) for i in some], ids=[str(i) for i in some], metadatas=[{"tag": str(i % TAGS)} for i in some]
        )
    return time.perf_counter() - start - (prepared.seconds - before)


def search(index: M3Index, query: int, name: str, **settings: Any) -> list[Hit]:
    return index.search(f"query {query}", k=K, weights=SEARCHES[name], candidates=200, **settings)


def latency(work: Callable[[int], object], queries: Sequence[int]) -> Figures:
    """Return the milliseconds per query, each run once after a warm-up."""
    for query in queries[:10]:
        work(query)
    spent = []
    for query in queries:
        start = time.perf_counter()
        work(query)
        spent.append(1e3 * (time.perf_counter() - start))
    return percentiles(spent)


def percentiles(spent: Sequence[float]) -> Figures:
    return {f"p{share} ms": float(np.percentile(spent, share)) for share in (50, 95, 99)}


def overlap(found: Sequence[Sequence[str]], exact: NDArray[np.float32]) -> float:
    """Return the share of the exact top 10 that was found; `exact` has a row of scores by document number per query."""
    best = np.argpartition(-exact, K, axis=1)[:, :K]
    return float(
        np.mean([len(set(map(int, ids)) & set(row.tolist())) / K for ids, row in zip(found, best, strict=True)])
    )


def exact_hybrid(exact: dict[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    weighted = [weight * exact[part] for part, weight in zip(NAMES, SEARCHES[name], strict=True) if weight]
    total: NDArray[np.float32] = np.sum(weighted, axis=0)
    return total


def note_searches(
    report: Report, when: str, index: M3Index, queries: Sequence[int], exact: dict[str, NDArray[np.float32]]
) -> None:
    """Report the time and overlap of each search that the index supports."""
    for name in SEARCHES:
        if SEARCHES[name][2] and not exact["multi_vector"].any():
            continue
        found = [[hit.id for hit in search(index, query, name)] for query in queries]
        report.note(
            f"{name}, {when}",
            {
                **latency(lambda query, name=name: search(index, query, name), queries),  # type: ignore[misc]
                "overlap": overlap(found, exact_hybrid(exact, name)),
            },
        )


def size_on_disk(folder: Path) -> float:
    """Return the MB that the files occupy on disk; their length is larger, because the engine writes sparse files."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*")) / 1e6
