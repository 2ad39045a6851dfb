"""The workloads of a peer's process: each loads, warms up, and returns a function that does the work once.

Runs are timed here, in the process that computes. "seconds" is compared with ours; other measures are reported next to
it. The outputs go to the parent, which compares them with ours.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from checkpoints import long_passages, questions, varied_passages
from numpy.typing import NDArray
from peers import Peer

T = TypeVar("T")
#: Number of texts or pairs for the warm-up of bulk workloads; not too few, as "best batch" tries its sizes on them.
_WARM_UP = 32
#: One run; returns the measurements and the outputs.
Run = Callable[[], tuple[dict[str, Any], list[NDArray[np.float32]]]]


class Given(NamedTuple):
    """The input of the workloads: checkpoint folders by name, and sizes."""

    folders: dict[str, str]
    passages: int
    queries: int
    longest: int

    def part(self, of: int) -> int:
        """Return the number of passages for a larger model: a quarter, a sixteenth … of them."""
        return max(1, self.passages // of)


@dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
        title: Title to display, with the names of sizes in braces.
        needs: What a peer must have, such as "Embedder.passages".
        prepare: Loads and warms up; runs in the peer's process.
        fresh: Whether each run starts a new process.
    """

    title: str
    needs: tuple[str, ...]
    prepare: Callable[[Peer, Given], Run]
    fresh: bool = False

    def named(self, given: Given) -> str:
        """Return the title with the sizes filled in."""
        return self.title.format(
            passages=given.passages, quarter=given.part(4), sixteenth=given.part(16), longest=given.longest
        )


@lru_cache(maxsize=1)
def _embedder(peer: Peer, folder: str) -> Any:
    return _module(peer).Embedder(folder, **peer.settings)


@lru_cache(maxsize=1)
def _reranker(peer: Peer, folder: str) -> Any:
    return _module(peer).Reranker(folder, **peer.settings)


def _module(peer: Peer) -> Any:
    return importlib.import_module(f"peers.{peer.module}")


def _encoding(encode: Callable[[T], Any], texts: T, warm_up: T) -> Run:
    encode(warm_up)

    def run() -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        spent, outputs = _timed(encode, texts)
        return {"seconds": spent}, list(outputs) if isinstance(outputs, tuple) else [outputs]

    return run


def _bulk(model: str, part: int, peer: Peer, given: Given) -> Run:
    texts = varied_passages(given.part(part))
    return _encoding(_embedder(peer, given.folders[model]).passages, texts, texts[:_WARM_UP])


def _mixed(peer: Peer, given: Given) -> Run:
    texts = long_passages(given.longest)
    return _encoding(_embedder(peer, given.folders["m3, 4 layers"]).passages, texts, texts[:3])


def _three_outputs(peer: Peer, given: Given) -> Run:
    texts = varied_passages(given.part(16))
    return _encoding(_module(peer).ThreeOutputs(given.folders["m3"], **peer.settings).passages, texts, texts[:2])


def _rerank(count: int, peer: Peer, given: Given) -> Run:
    pairs = [(questions(1)[0], text) for text in varied_passages(count)]
    return _encoding(_reranker(peer, given.folders["reranker"]).scores, pairs, pairs[:_WARM_UP])


def _timed(encode: Callable[[T], Any], given: T) -> tuple[float, Any]:
    start = time.perf_counter()
    output = encode(given)
    return time.perf_counter() - start, output


def _queries_measured(spent: float, timed: list[tuple[float, Any]]) -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
    latencies, vectors = zip(*timed, strict=True)
    return {"seconds": spent, "latencies": latencies}, [np.stack(vectors)]


def _threads(count: int, peer: Peer, given: Given) -> Run:
    """Run threads that each embed a share of the queries, one after another."""
    query = _embedder(peer, given.folders["small"]).query
    texts = questions(max(given.queries, count))
    shares = [texts[i::count] for i in range(count)]

    def run() -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        started: list[float] = []
        begin = threading.Barrier(count, action=lambda: started.append(time.perf_counter()))

        def one(share: list[str]) -> list[tuple[float, Any]]:
            begin.wait()
            return [_timed(query, text) for text in share]

        with ThreadPoolExecutor(count) as pool:
            done = [pool.submit(one, share) for share in shares]
            timed = [pair for future in done for pair in future.result()]
            return _queries_measured(time.perf_counter() - started[0], timed)

    run()
    return run


def _tasks(count: int, peer: Peer, given: Given) -> Run:
    """Do the same as `_threads` with tasks on one event loop."""
    aquery = _embedder(peer, given.folders["small"]).aquery
    texts = questions(max(given.queries, count))
    shares = [texts[i::count] for i in range(count)]
    loop = asyncio.new_event_loop()

    async def one(share: list[str]) -> list[tuple[float, Any]]:
        timed = []
        for text in share:
            start = time.perf_counter()
            vector = await aquery(text)
            timed.append((time.perf_counter() - start, vector))
        return timed

    async def everyone() -> list[tuple[float, Any]]:
        return [pair for timed in await asyncio.gather(*map(one, shares)) for pair in timed]

    def run() -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        start = time.perf_counter()
        timed = loop.run_until_complete(everyone())
        return _queries_measured(time.perf_counter() - start, timed)

    run()
    return run


def _interactive(peer: Peer, given: Given) -> Run:
    """Send queries 50 ms apart while a bulk job runs; "seconds" is the median query's time."""
    model = _embedder(peer, given.folders["small"])
    texts, asked = varied_passages(given.passages), questions(given.queries)
    model.passages(texts[:8])
    model.query(asked[0])

    def run() -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        timed: list[tuple[float, Any]] = []
        with ThreadPoolExecutor(1) as pool:
            bulk = pool.submit(_timed, model.passages, texts)
            while not timed or not bulk.done():
                time.sleep(0.05)
                timed.append(_timed(model.query, asked[len(timed) % len(asked)]))
            bulk_seconds, vectors = bulk.result()
        latencies = [spent for spent, _ in timed]
        measured = {"seconds": float(np.median(latencies)), "latencies": latencies, "bulk seconds": bulk_seconds}
        return measured, [vectors, timed[0][1]]

    return run


def _rag(peer: Peer, given: Given) -> Run:
    """Embed the passages; embed two questions, search by brute force, and rerank the 16 nearest passages of each."""
    embedder, reranker = _embedder(peer, given.folders["small"]), _reranker(peer, given.folders["reranker"])
    texts, asked = varied_passages(given.part(4)), questions(2)
    embedder.passages(texts[:8])
    reranker.scores([(asked[0], text) for text in texts[:8]])

    def run() -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        start = time.perf_counter()
        vectors = embedder.passages(texts)
        similarities, scores = [], []
        for question in asked:
            similarities.append(vectors @ embedder.query(question))
            nearest = np.argsort(-similarities[-1])[:16]
            scores.append(np.sort(reranker.scores([(question, texts[i]) for i in nearest])))
        return {"seconds": time.perf_counter() - start}, [np.stack(similarities), np.stack(scores)]

    return run


def _start(peer: Peer, given: Given) -> Run:
    """Time import, loading and one query without a warm-up; then measure the memory before and after some passages.

    A peer's first export to ONNX or OpenVINO would count as loading, but "bulk-base" has already made it.
    """

    def run() -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        moments = [time.perf_counter()]
        importlib.import_module(peer.package)
        moments.append(time.perf_counter())
        model = _embedder(peer, given.folders["base"])
        moments.append(time.perf_counter())
        vector = model.query(questions(1)[0])
        moments.append(time.perf_counter())
        resident = memory_mb("VmRSS")
        model.passages(varied_passages(given.part(4)))
        imported, loaded, first = np.diff(moments)
        measured = {
            "seconds": moments[-1] - moments[0],
            "import seconds": imported,
            "load seconds": loaded,
            "first query seconds": first,
            "resident MB": resident,
            "peak MB": memory_mb("VmHWM"),
        }
        return measured, [vector]

    return run


def memory_mb(field: str, process: str = "self") -> float:
    """Return a field of /proc/PID/status in MB; 0 on other systems and if the process has ended."""
    status = Path(f"/proc/{process}/status")
    rows = dict(row.split(":", 1) for row in status.read_text().splitlines()) if status.exists() else {field: "0 kB"}
    return int(rows.get(field, "0 kB").split()[0]) / 1024


_EMBED = ("Embedder.passages",)
_QUERY = ("Embedder.query",)
_SCORE = ("Reranker.scores",)
#: All workloads. Those with the same model are adjacent, because a peer keeps only the model that it loaded last.
WORKLOADS = {
    "bulk-small": Workload("bge-small size, {passages} passages", _EMBED, partial(_bulk, "small", 1)),
    **{
        f"threads-{count}": Workload(
            f"single queries, {count} thread{'s'[: count - 1]}", _QUERY, partial(_threads, count)
        )
        for count in (1, 8, 64)
    },
    **{
        f"tasks-{count}": Workload(
            f"single queries, {count} task{'s'[: count - 1]}", ("Embedder.aquery",), partial(_tasks, count)
        )
        for count in (1, 16, 256)
    },
    "interactive": Workload("a query during bge-small size, {passages} passages", _EMBED + _QUERY, _interactive),
    "rag": Workload("RAG: {quarter} passages, 2 questions, rerank 16 for each", _EMBED + _QUERY + _SCORE, _rag),
    "rerank-32": Workload("reranker-base size, 32 pairs", _SCORE, partial(_rerank, 32)),
    "rerank-100": Workload("reranker-base size, 100 pairs", _SCORE, partial(_rerank, 100)),
    "bulk-base": Workload("bge-base size, {quarter} passages", _EMBED, partial(_bulk, "base", 4)),
    "m3": Workload("bge-m3 size, three outputs of {sixteenth} passages", ("ThreeOutputs",), _three_outputs),
    "mixed": Workload("bge-m3 cut to 4 layers, 6 texts of up to {longest} tokens", _EMBED, _mixed),
    "start": Workload("start to first vector, bge-base size", _QUERY, _start, fresh=True),
}
