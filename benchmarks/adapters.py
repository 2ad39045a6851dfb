"""Benchmark the adapters: event-loop delay, memory for ten adapters, and dense and sparse vectors in one pass.

    make bench

writes benchmarks/adapters.json. Weights are random, in the published sizes; the peers are langchain-huggingface and
llama-index-embeddings-huggingface with the same weights and texts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import CHECKPOINTS, passages, random_embedder, random_m3
from langchain_huggingface import HuggingFaceEmbeddings
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from options import add_results, positive
from rich.console import Console

from bge_integrations import load_embedder
from bge_integrations.langchain import BGEEmbeddings, BGESparseEmbeddings
from bge_integrations.llama_index import BGEEmbedding

RESULTS = Path(__file__).parent / "adapters.json"
CALLS = 4
RESIDENT = """
import sys
from pathlib import Path
{imports}
def resident():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024
before = resident()
adapters = []
for count in (1, 10):
    while len(adapters) < count:
        adapters.append({adapter})
        {use}
    print(resident() - before)
"""


async def loop_delays(work: Awaitable[Any]) -> list[float]:
    """Return by how many ms each of many 1 ms sleeps was late while `work` ran."""
    delays: list[float] = []

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            delays.append((time.perf_counter() - start) * 1e3 - 1)

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(0.01)
    await work
    ticker.cancel()
    return delays


def event_loop(count: int) -> dict[str, Any]:
    """Measure the event loop's delay during four concurrent bulk calls."""
    folder = str(random_embedder(CHECKPOINTS, "small"))
    texts = passages(count * CALLS)
    batches = [texts[i::CALLS] for i in range(CALLS)]
    ours, ours_llama = BGEEmbeddings(model=folder), BGEEmbedding(model_name=folder)
    peer, peer_llama = HuggingFaceEmbeddings(model_name=folder), HuggingFaceEmbedding(model_name=folder, device="cpu")
    calls: dict[str, Callable[[list[str]], Awaitable[Any]]] = {
        "BGEEmbeddings": ours.aembed_documents,
        "BGEEmbedding": ours_llama.aget_text_embedding_batch,
        "HuggingFaceEmbeddings": peer.aembed_documents,
        "HuggingFaceEmbedding": peer_llama.aget_text_embedding_batch,
    }
    found = {}
    for name, call in calls.items():

        async def all_at_once(call: Callable[[list[str]], Awaitable[Any]] = call) -> list[float]:
            await call(texts[:2])
            return await loop_delays(asyncio.gather(*(call(batch) for batch in batches)))

        start = time.perf_counter()
        delays = asyncio.run(all_at_once())
        found[name] = {
            "seconds": time.perf_counter() - start,
            "p50_ms": float(np.percentile(delays, 50)),
            "p99_ms": float(np.percentile(delays, 99)),
            "max_ms": max(delays),
        }
    return {"texts_per_call": count, "calls": CALLS, **found}


def memory() -> dict[str, Any]:
    """Measure the resident MB of one and of ten adapters of one model, each used once, in a separate process."""
    folder = str(random_embedder(CHECKPOINTS, "base"))
    adapters = {
        "BGEEmbeddings": (
            "from bge_integrations.langchain import BGEEmbeddings",
            f"BGEEmbeddings(model={folder!r}, device='cpu')",
        ),
        "HuggingFaceEmbeddings": (
            "from langchain_huggingface import HuggingFaceEmbeddings",
            f"HuggingFaceEmbeddings(model_name={folder!r}, model_kwargs={{'device': 'cpu'}})",
        ),
    }
    found = {}
    for name, (imports, adapter) in adapters.items():
        code = RESIDENT.format(imports=imports, adapter=adapter, use="adapters[-1].embed_query('hi')")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        one, ten = (float(line) for line in done.stdout.split()[-2:])
        found[name] = {"one_mb": one, "ten_mb": ten}
    return found


def dense_and_sparse(count: int, rounds: int) -> dict[str, Any]:
    """Time dense vectors alone, and dense then sparse vectors as a hybrid store requests them."""
    folder = str(random_m3(CHECKPOINTS))
    texts = passages(count)
    with load_embedder(folder) as embedder:
        dense = BGEEmbeddings(model=folder)
        alone, both, apart = [], [], []
        embedder.encode(texts[:2])
        for _ in range(rounds):
            start = time.perf_counter()
            dense.embed_documents(texts)
            alone.append(time.perf_counter() - start)
            sparse = BGESparseEmbeddings(model=folder)
            start = time.perf_counter()
            dense.embed_documents(texts)
            sparse.embed_documents(texts)
            both.append(time.perf_counter() - start)
            del sparse
            start = time.perf_counter()
            embedder.encode(texts)
            embedder.encode(texts, dense=False, sparse=True)
            apart.append(time.perf_counter() - start)
    return {
        "texts": count,
        "dense_alone_s": statistics.median(alone),
        "dense_then_sparse_s": statistics.median(both),
        "two_passes_s": statistics.median(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=positive, default=64, help="number of texts in each bulk call")
    parser.add_argument("--rounds", type=positive, default=3)
    add_results(parser, RESULTS)
    arguments = parser.parse_args()
    results = {
        "event_loop": event_loop(arguments.texts),
        "memory": memory(),
        "dense_and_sparse": dense_and_sparse(max(1, arguments.texts // 2), arguments.rounds),
    }
    arguments.results.write_text(json.dumps(results, indent=2) + "\n")
    Console().print_json(data=results)


if __name__ == "__main__":
    main()
