"""The server beside infinity's: throughput and latency with 1, 16 and 64 clients, reranking, start, and memory.

    python benchmarks/serving.py

writes benchmarks/serving.json. Both serve a model of bge-small's size and a reranker of bge-reranker-base's size with
random weights on the CPU in float32, one server at a time, to the same clients. `make bench-peers` installs infinity in
.bench-envs/infinity; without it, only ours is measured. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from checkpoints import CHECKPOINTS, passages, questions, random_embedder, random_reranker
from options import add_results, positive
from peers import ENVIRONMENTS
from timing import machine

from bge_integrations import load_embedder

RESULTS = Path(__file__).parent / "serving.json"
_CLIENTS = (1, 16, 64)
_RERANKED = 32
_INFINITY = ENVIRONMENTS / "infinity" / "bin" / "infinity_emb"
_LONGEST_START = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=positive, default=1000, help="requests for each number of clients")
    parser.add_argument("--long", type=positive, default=100_000, help="requests after which memory is measured again")
    add_results(parser, RESULTS)
    options = parser.parse_args()
    models = str(random_embedder(CHECKPOINTS, "small")), str(random_reranker(CHECKPOINTS))
    commands = {"ours": _our_command(*models)}
    if _INFINITY.exists():
        commands["infinity"] = _infinity_command(*models)
    results: dict[str, Any] = {"machine": machine(), "requests": options.requests, "servers": {}}
    for name, command in commands.items():
        results["servers"][name] = measured = _measure(command, options.requests, options.long)
        print(name, json.dumps(measured), flush=True)
    results["in process"] = _in_process(models[0])
    results["ours, one client"] = results["servers"]["ours"]["bulk"]
    options.results.write_text(json.dumps(results, indent=1) + "\n")


def _our_command(embedder: str, reranker: str) -> list[str]:
    limits = ["--max-client-batch-size", "2048", "--request-timeout", "600"]
    module = [sys.executable, "-m", "bge_integrations.serving", embedder, "--reranker", reranker]
    return [*module, "--device", "cpu", "--dtype", "float32", *limits]


def _infinity_command(embedder: str, reranker: str) -> list[str]:
    command = [
        str(_INFINITY),
        "v2",
        "--device",
        "cpu",
        "--engine",
        "torch",
        "--dtype",
        "float32",
        "--url-prefix",
        "/v1",
    ]
    for model in (embedder, reranker):
        command += ["--model-id", model, "--served-model-name", Path(model).name, "--no-model-warmup"]
    return command


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[str, float, float, int]]:
    """Run a server; yield its URL, the seconds until it listened and until it answered, and its process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen([*command, "--port", str(port)], env=environment, stderr=subprocess.DEVNULL)
    try:
        listening = _seconds_until(lambda: httpx.get(f"{url}/health").is_success, started)
        ready = _seconds_until(lambda: _embed(url, ["ready?"]).is_success, started)
        yield url, listening, ready, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _embed(url: str, texts: list[str]) -> httpx.Response:
    return httpx.post(f"{url}/v1/embeddings", json=_body(texts), timeout=600)


def _body(texts: list[str]) -> dict[str, Any]:
    return {"model": "bge-small-en-v1.5", "input": texts}


def _seconds_until(check: Any, started: float) -> float:
    while time.perf_counter() - started < _LONGEST_START:
        try:
            if check():
                return time.perf_counter() - started
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise TimeoutError(f"the server did not answer within {_LONGEST_START} seconds")


def _measure(command: list[str], requests: int, long: int) -> dict[str, Any]:
    with _running(command) as (url, listening, ready, pid):
        measured: dict[str, Any] = {"seconds to listen": round(listening, 2), "seconds to ready": round(ready, 2)}
        for clients in _CLIENTS:
            asyncio.run(_load(url, clients, max(clients, requests // 10)))  # to warm up
            measured[f"{clients} clients"] = asyncio.run(_load(url, clients, requests))
        measured["rerank, seconds"] = _median(lambda: _rerank(url))
        measured["bulk"] = {
            "one query, seconds": _median(lambda: _embed(url, questions(1))),
            "512 passages, seconds": _median(lambda: _embed(url, passages(512)), 3),
        }
        before = _memory_mb(pid)
        asyncio.run(_load(url, 16, long))
        measured["memory, MB"] = [before, _memory_mb(pid)]
    return measured


async def _load(url: str, clients: int, requests: int) -> dict[str, float]:
    """Send single questions from `clients` clients, each waiting for its answer before it sends the next."""
    texts = iter(questions(requests))
    spent: list[float] = []

    async def ask(session: httpx.AsyncClient) -> None:
        for text in texts:
            begin = time.perf_counter()
            answer = await session.post(f"{url}/v1/embeddings", json=_body([text]))
            answer.raise_for_status()
            spent.append(time.perf_counter() - begin)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as session:
        begin = time.perf_counter()
        await asyncio.gather(*(ask(session) for _ in range(clients)))
        elapsed = time.perf_counter() - begin
    spent.sort()
    return {
        "requests per second": round(requests / elapsed, 1),
        "p50, ms": round(1000 * spent[len(spent) // 2], 1),
        "p99, ms": round(1000 * spent[len(spent) * 99 // 100], 1),
    }


def _rerank(url: str) -> httpx.Response:
    body = {"model": "bge-reranker-base", "query": questions(1)[0], "documents": passages(_RERANKED)}
    return httpx.post(f"{url}/v1/rerank", json=body, timeout=600)


def _in_process(model: str) -> dict[str, float]:
    """Return the same calls as "bulk", without a server."""
    with load_embedder(model, device="cpu", dtype="float32") as embedder:
        return {
            "one query, seconds": _median(lambda: embedder.encode(questions(1)).dense),
            "512 passages, seconds": _median(lambda: embedder.encode(passages(512)).dense, 3),
        }


def _median(work: Any, rounds: int = 20) -> float:
    work()
    spent = []
    for _ in range(rounds):
        begin = time.perf_counter()
        answer = work()
        spent.append(time.perf_counter() - begin)
        if isinstance(answer, httpx.Response):
            answer.raise_for_status()
    return round(statistics.median(spent), 5)


def _memory_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1000)


if __name__ == "__main__":
    main()
