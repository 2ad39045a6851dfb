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
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import numpy as np
from prepared import Corpus, Prepared, exact_scores

from bge_integrations.index import M3Index, optimizing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index import Hit

RESULTS = Path(__file__).parent / "index.json"
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


def insertion(options: argparse.Namespace) -> Report:
    """Insert the same dense vectors into Chroma and, together with sparse vectors, into M3Index, alternately."""
    import chromadb

    report, count = Report("insertion"), options.documents
    corpus = Corpus(count, with_multi_vectors=False)
    rates: dict[str, list[float]] = {}

    def into_chroma(folder: Path, size: int | None) -> float:
        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        with closing(client):
            documents = client.create_collection(
                "documents", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
            )
            spent = 0.0
            for begin in range(0, count, step := size or client.get_max_batch_size()):
                some = range(begin, min(begin + step, count))
                vectors = np.stack([corpus.document(i).dense for i in some])
                texts = [corpus.text(i) for i in some]
                start = time.perf_counter()
                documents.add(
                    ids=[str(i) for i in some],
                    embeddings=vectors,
                    documents=texts,
                    metadatas=[{"tag": str(i % TAGS)} for i in some],
                )
                spent += time.perf_counter() - start
        return spent

    def into_index(folder: Path) -> float:
        with M3Index.open(folder, Prepared(corpus), multi_vectors="recompute") as index:
            return add(index, corpus, range(count))

    ways: dict[str, Callable[[Path], float]] = {
        "Chroma, batches as large as it takes": lambda folder: into_chroma(folder, None),
        f"Chroma, {CALL} a call": lambda folder: into_chroma(folder, CALL),
        f"M3Index, dense and sparse, {CALL} a call": into_index,
    }
    for _ in range(options.rounds):
        for name, way in ways.items():
            with workspace() as folder:
                rates.setdefault(name, []).append(count / way(folder / "store"))
    for name, found in rates.items():
        report.note(
            name, {"documents/s": float(np.median(found)), "slowest round": min(found), "fastest round": max(found)}
        )
    return report


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


def peers(options: argparse.Namespace) -> Report:
    """Compare LlamaIndex's own BGEM3Index, M3Index, and M3Index over qdrant-client's local store, in hybrid search."""
    from qdrant_client import QdrantClient

    report, count = Report("peers"), options.peers_documents
    corpus, queries = Corpus(count), range(options.queries)
    prepared = Prepared(corpus)
    exact = exact_hybrid(exact_scores(corpus, range(count), queries), "hybrid of three")
    name = f"{count} documents"

    def note(who: str, asked: range, find: Callable[[int], list[str]]) -> None:
        found = [find(query) for query in asked]
        report.note(f"{name}, {who}", {**latency(find, asked), "overlap": overlap(found, exact[: len(asked)])})

    few = queries[: max(1, len(queries) // 10)]
    try:
        theirs = llama_index_m3(corpus, count)
    except ImportError as error:
        report.note(f"{name}, LlamaIndex' BGEM3Index", f"not measured: {error}")
    else:
        note("LlamaIndex' BGEM3Index", few, lambda i: [hit.node.node_id for hit in theirs.query(f"query {i}", K)])
        del theirs
    with workspace() as folder, M3Index.open(folder, prepared) as index:
        add(index, corpus, range(count))
        note("M3Index", queries, lambda i: [hit.id for hit in search(index, i, "hybrid of three")])
        index.optimize()
        note("M3Index, optimised", queries, lambda i: [hit.id for hit in search(index, i, "hybrid of three")])
    with closing(QdrantClient(":memory:")) as client, M3Index.open(client, prepared) as index:
        report.note(f"{name}, qdrant-client's local store", {"documents/s": count / add(index, corpus, range(count))})
        note(
            "M3Index over qdrant-client's local store",
            few,
            lambda i: [hit.id for hit in search(index, i, "hybrid of three")],
        )
    return report


def llama_index_m3(corpus: Corpus, count: int) -> Any:
    """Return LlamaIndex's unchanged index with a model that returns prepared vectors; FlagEmbedding scores them."""
    import FlagEmbedding
    from llama_index.core.schema import TextNode
    from llama_index.indices.managed.bge_m3 import BGEM3Index

    prepared = Prepared(corpus)

    class Model(FlagEmbedding.BGEM3FlagModel):  # type: ignore[misc]
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def encode(self, texts: str | list[str], **_: object) -> dict[str, Any]:
            alone = isinstance(texts, str)
            encoded = prepared.encode([texts] if isinstance(texts, str) else texts, sparse=True, multi_vector=True)
            assert encoded.sparse is not None
            lexical = [{str(token): weight for token, weight in row.items()} for row in encoded.sparse.to_dicts()]
            rows: dict[str, Any] = {
                "dense_vecs": encoded.dense,
                "lexical_weights": lexical,
                "colbert_vecs": list(encoded.multi_vector or ()),
            }
            return {name: row[0] for name, row in rows.items()} if alone else rows

        def stop_self_pool(self) -> None:
            pass

    with mock.patch.object(FlagEmbedding, "BGEM3FlagModel", Model):
        return BGEM3Index(nodes=[TextNode(text=corpus.text(i), id_=str(i)) for i in range(count)])


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
