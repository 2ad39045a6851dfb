"""Benchmark how an index stores multi-vectors: size, insertion, searches, and what each code costs in nDCG.

    python benchmarks/multi_vectors.py speed [--documents 20000] [--codes binary,int8] [--folder DIR]
    python benchmarks/multi_vectors.py quality DATASET… [--model pocket] [--queries 300]

"speed" makes an index of documents with 300 tokens of 1024 dimensions and searches it with queries of 24 tokens, alone
and by 32 callers at once, while an event loop measures how late it wakes up. The vectors come from prepared.py, and
insertion times exclude the time to create them. With --folder, an index that is there already is used again.

"quality" ranks the 200 passages with the closest mean vectors by max-sim of their token vectors, once for each code.
DATASET is a folder in BEIR's layout. The model is one with multi-vectors, or the folder of any encoder that
transformers loads, whose last hidden states are used; texts are cut to 256 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from index_common import SEARCHES, add, latency, search, shown, size_on_disk
from prepared import Corpus, Prepared

from bge_integrations import load_embedder
from bge_integrations.evaluation import Dataset, Run, measure_run
from bge_integrations.index import M3Index, optimizing
from bge_integrations.index.codes import codec_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import TextKind
    from bge_integrations.index.codes import Code

TOKENS, QUERY_TOKENS, WIDTH = 300, 24, 1024
CALLERS = 32
CANDIDATES = 200
CODES: tuple[Code, ...] = ("float16", "int8", "binary")
MAX_LENGTH = 256


def speed(options: argparse.Namespace) -> None:
    optimizing._UNOPTIMIZED_POINTS = sys.maxsize  # it is optimised where this says so
    corpus = Corpus(options.documents, WIDTH, tokens=TOKENS, query_tokens=QUERY_TOKENS)
    prepared = Prepared(corpus)
    queries = range(options.queries)
    for query in queries:
        corpus.query(query)
    for code in options.codes:
        with tempfile.TemporaryDirectory(prefix="bge-multi-vectors-") as temporary:
            folder = Path(options.folder or temporary) / code
            with M3Index.open(folder, prepared, multi_vectors=code) as index:
                if not len(index):
                    seconds = add(index, corpus, range(options.documents))
                    print(f"{code}: insertion: {options.documents / seconds:.0f} documents/s", flush=True)
                    files = size_on_disk(folder / "multi_vectors") * 1e3 / options.documents
                    everything = size_on_disk(folder) * 1e3 / options.documents
                    print(f"{code}: on disk: {files:.1f} kB of multi-vectors, {everything:.1f} kB in all per document")
                    start = time.perf_counter()
                    index.optimize()
                    print(f"{code}: optimize: {time.perf_counter() - start:.1f} s", flush=True)
                for name in options.searches:
                    spent = latency(lambda i, name=name: search(index, i, name), queries)  # type: ignore[misc]
                    print(f"{code}: {name}: {shown(spent)}", flush=True)
                for name in options.searches:
                    print(f"{code}: {name}, {CALLERS} callers: {shown(asyncio.run(crowd(index, queries, name)))}")


async def crowd(index: M3Index, queries: Sequence[int], name: str) -> dict[str, float]:
    """Return the searches per second of many callers at once, and how late the event loop woke up meanwhile."""
    late: list[float] = []
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            start = time.perf_counter()
            await asyncio.sleep(0.002)
            late.append(1e3 * (time.perf_counter() - start - 0.002))

    async def call(first: int) -> None:
        for i in range(first, len(queries), CALLERS):
            await index.asearch(f"query {queries[i]}", k=10, weights=SEARCHES[name], candidates=CANDIDATES)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    await asyncio.gather(*(call(i) for i in range(CALLERS)))
    seconds = time.perf_counter() - start
    done.set()
    await watching
    return {
        "searches/s": len(queries) / seconds,
        "event loop late, p50 ms": float(np.percentile(late, 50)),
        "p99 ms": float(np.percentile(late, 99)),
    }


def quality(options: argparse.Namespace) -> None:
    encode = token_vectors(options.model)
    for path in options.datasets:
        data = Dataset.read(path)
        data = data.only(data.judged[:: max(1, len(data.judged) // options.queries)])
        documents = encode([data.documents[i] for i in data.searchable], "passage")
        queries = encode([data.queries[i] for i in data.judged], "query")
        compare_codes(data, documents, queries)


def compare_codes(
    data: Dataset, documents: Sequence[NDArray[np.float32]], queries: Sequence[NDArray[np.float32]]
) -> None:
    """Print the nDCG@10 of each code, for the searchable documents and the judged queries in their order."""
    ids = data.searchable
    means = unit(np.stack([rows.mean(axis=0) for rows in documents]))
    candidates = [
        np.sort(np.argsort(-(means @ unit(rows.mean(axis=0))), kind="stable")[:CANDIDATES]) for rows in queries
    ]
    exact = 0.0
    for code in CODES:
        codec = codec_of(code, documents[0].shape[1])
        coded = [codec.encode(rows) for rows in documents]
        rankings = {}
        for identifier, query, chosen in zip(data.judged, queries, candidates, strict=True):
            products = codec.products(query)
            found = products.multiply(np.concatenate([coded[i] for i in chosen]))
            starts = np.cumsum([0, *(len(coded[i]) for i in chosen[:-1])])
            scores = products.scale @ np.maximum.reduceat(found, starts, axis=1)
            best = np.argsort(-scores, kind="stable")
            rankings[identifier] = [(ids[chosen[i]], float(scores[i])) for i in best]
        mean = measure_run(data, Run(code, rankings)).means["nDCG@10"]
        exact = exact or mean
        print(
            f"{data.name}: {code}, {codec.row_bytes} bytes per token: nDCG@10 {mean:.4f}, "
            f"{mean / exact:.4f} of float16's; {len(queries)} queries, {len(documents)} passages",
            flush=True,
        )


def token_vectors(model: str) -> Any:
    """Return a function that encodes texts to a list of unit rows, float32 (tokens, width)."""
    if not (Path(model) / "config.json").exists():
        embedder = load_embedder(model, max_length=MAX_LENGTH)

        def encode(texts: list[str], kind: TextKind) -> list[NDArray[np.float32]]:
            encoded = embedder.encode(texts, kind=kind, dense=False, multi_vector=True, on_truncate="ignore")
            return list(encoded.multi_vector or ())

        return encode
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()

    @torch.inference_mode()
    def last_states(texts: list[str], kind: TextKind) -> list[NDArray[np.float32]]:
        rows: dict[int, NDArray[np.float32]] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for begin in range(0, len(order), 32):
            some = order[begin : begin + 32]
            batch = tokenizer(
                [texts[i] for i in some], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            with torch.autocast("cpu", torch.bfloat16):
                states = encoder(**batch).last_hidden_state.float().numpy()
            rows |= {i: unit(s[: int(m.sum())]) for i, s, m in zip(some, states, batch["attention_mask"], strict=True)}
        return [rows[i] for i in range(len(texts))]

    return last_states


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("speed")
    part.add_argument("--documents", type=int, default=20_000)
    part.add_argument("--queries", type=int, default=320)
    part.add_argument("--codes", type=lambda names: names.split(","), default=list(CODES))
    part.add_argument("--searches", type=lambda names: names.split(","), default=list(SEARCHES)[:2])
    part.add_argument("--folder", help="where to make the indexes, or to find them")
    part.set_defaults(run=speed)
    part = parts.add_parser("quality")
    part.add_argument("datasets", nargs="+", metavar="DATASET")
    part.add_argument("--model", default="pocket")
    part.add_argument("--queries", type=int, default=300, help="number of queries at least, spread evenly over all")
    part.set_defaults(run=quality)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
