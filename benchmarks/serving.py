"""The server beside infinity's, and beside the same calls in the process that makes them.

    python benchmarks/serving.py

writes benchmarks/serving.json. The models have the sizes of bge-small and bge-reranker-base, random weights, and run on
the CPU in float32. `make bench-peers` installs infinity in .bench-envs/infinity; without it, only ours is measured.
`--parts` measures some parts anew and keeps the others' results. Linux only.
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
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
from checkpoints import CHECKPOINTS, passages, questions, random_embedder, random_reranker, varied_passages
from options import add_results, positive
from peers import ENVIRONMENTS, PEERS
from timing import machine, ratio, seconds

from bge_integrations import load_embedder

RESULTS = Path(__file__).parent / "serving.json"
#: Clients at the same time, and the questions that they send together.
_CLIENTS = {1: 200, 16: 500, 64: 1200}
_PASSAGES = 192
_RERANKED = 32
_BULK = 256
#: Seconds of questions during bulk work.
_MIXED = 10.0
#: Calls in a row, before the other kind's turn; the first of them is not counted.
_TURN = 25
_INFINITY = ENVIRONMENTS / "infinity" / "bin" / "infinity_emb"
_LONGEST_START = 120
_Session = aiohttp.ClientSession


class _Server(NamedTuple):
    """A running server: its URL, its process, and the seconds until it answered at all and its models were loaded."""

    url: str
    pid: int
    listening: float
    ready: float


_Work = Callable[[_Session, _Server], Awaitable[dict[str, float]]]


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "questions": partial(_beside_infinity, _questions),
        "passages": partial(_beside_infinity, _passages),
        "questions during bulk work": partial(_beside_infinity, _mixed),
        "start and rerank": partial(_beside_infinity, _start_and_rerank),
        "calls": _calls,
        "memory": _memory,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts), help="what to measure")
    parser.add_argument("--rounds", type=positive, default=2, help="rounds, in which the servers take turns")
    parser.add_argument("--requests", type=positive, default=100_000, help="requests after which memory is read")
    add_results(parser, RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    results |= {"machine": machine(), "infinity": _infinity_versions()}
    for name in options.parts:
        results[name] = parts[name](options)
        print(name, json.dumps(results[name], indent=1), flush=True)
        options.results.write_text(json.dumps(_rounded(results), indent=1) + "\n")


def _beside_infinity(work: _Work, options: argparse.Namespace) -> Any:
    """Do the same work with each server in turn; return what it measured, and infinity's numbers over ours."""
    models = str(random_embedder(CHECKPOINTS, "small")), str(random_reranker(CHECKPOINTS))
    commands = {"ours": _our_command(*models)}
    if _INFINITY.exists():
        commands["infinity"] = _infinity_command(*models)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            rounds[name].append(asyncio.run(_round(command, work)))
    measured: dict[str, Any] = {
        name: {key: [each[key] for each in values] for key in values[0]} for name, values in rounds.items()
    }
    if "infinity" in measured:
        theirs = measured["infinity"]
        measured["infinity / ours"] = {key: ratio(theirs[key], spent) for key, spent in measured["ours"].items()}
    return measured


async def _round(command: list[str], work: _Work) -> dict[str, float]:
    with _running(command) as server:
        timeout = aiohttp.ClientTimeout(600)
        connector = aiohttp.TCPConnector(limit=0)
        async with _Session(server.url, connector=connector, timeout=timeout, raise_for_status=True) as session:
            return await work(session, server)


async def _questions(session: _Session, _: _Server) -> dict[str, float]:
    """Send single questions from 1, 16 and 64 clients."""
    measured: dict[str, float] = {}
    for clients, count in _CLIENTS.items():
        await _ask(session, clients, questions(2 * clients))  # to warm up
        measured |= await _ask(session, clients, questions(count))
    return measured


async def _passages(session: _Session, _: _Server) -> dict[str, float]:
    """Send single passages of varied lengths from 64 clients."""
    await _ask(session, 64, varied_passages(64))
    return await _ask(session, 64, varied_passages(_PASSAGES))


async def _mixed(session: _Session, _: _Server) -> dict[str, float]:
    """Send single questions from 16 clients while 4 others embed 32 passages with each request."""
    bulk = varied_passages(32)

    async def embed() -> None:
        while True:
            await _embed(session, bulk)

    await _ask(session, 16, questions(32))
    others = [asyncio.create_task(embed()) for _ in range(4)]
    await asyncio.sleep(1)
    measured = await _ask(session, 16, questions(5000), _MIXED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return measured


async def _start_and_rerank(session: _Session, server: _Server) -> dict[str, float]:
    """Rerank 32 passages for a question, and return how long the server took to start and its memory afterwards."""
    body = {"model": "bge-reranker-base", "query": questions(1)[0], "documents": passages(_RERANKED)}
    spent = []
    for _ in range(2):
        begin = time.perf_counter()
        await _post(session, "/v1/rerank", body)
        spent.append(time.perf_counter() - begin)
    start = {"until it answers, seconds": server.listening, "until its models answer, seconds": server.ready}
    return {f"rerank {_RERANKED}, seconds": min(spent)} | start | {"memory, MB": _memory_mb(server.pid)}


async def _ask(session: _Session, clients: int, texts: list[str], limit: float = 600) -> dict[str, float]:
    """Send each text in a request; each client waits for its answer before it sends the next, until `limit` seconds."""
    left = iter(texts)
    spent: list[float] = []
    started = time.perf_counter()

    async def ask() -> None:
        for text in left:
            begin = time.perf_counter()
            if begin - started > limit:
                return
            await _embed(session, [text])
            spent.append(time.perf_counter() - begin)

    await asyncio.gather(*(ask() for _ in range(clients)))
    elapsed = time.perf_counter() - started
    spent.sort()
    return {
        f"{clients} clients, seconds / requests": elapsed / len(spent),
        f"{clients} clients, p50 in seconds": spent[len(spent) // 2],
        f"{clients} clients, p99 in seconds": spent[len(spent) * 99 // 100],
    }


async def _embed(session: _Session, texts: list[str]) -> None:
    await _post(session, "/v1/embeddings", {"model": "bge-small-en-v1.5", "input": texts})


async def _post(session: _Session, path: str, body: dict[str, Any]) -> None:
    async with session.post(path, data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as answer:
        await answer.read()


def _calls(options: argparse.Namespace) -> dict[str, Any]:
    """Make the same calls with the model in this process and with our client of a server, in turn."""
    model = str(random_embedder(CHECKPOINTS, "small"))
    texts = passages(_BULK)
    with (
        _running(_our_command(model)) as server,
        load_embedder(model, device="cpu", dtype="float32") as local,
        load_embedder(server.url) as remote,
    ):
        both = {"in process": local, "server": remote}
        lone: dict[str, list[float]] = {name: [] for name in both}
        bulk: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(6 * options.rounds):
            for name, embedder in both.items():
                spent = [seconds(partial(embedder.encode, [text], kind="query")) for text in questions(_TURN)]
                lone[name].append(statistics.median(spent[1:]))
        for _ in range(1 + options.rounds):
            for name, embedder in both.items():
                bulk[name].append(seconds(partial(embedder.encode, texts, kind="passage")))
    lone, bulk = ({name: spent[1:] for name, spent in part.items()} for part in (lone, bulk))
    more = [server - own for server, own in zip(lone["server"], lone["in process"], strict=True)]
    return {
        "lone query, seconds": lone,
        "more for a lone query, seconds": [statistics.median(more), min(more), max(more)],
        f"{_BULK} passages, seconds": bulk,
        f"{_BULK} passages, server / in process": ratio(bulk["server"], bulk["in process"]),
    }


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    """Read a server's memory while it answers many requests; with the pocket model, so that they take minutes."""
    return asyncio.run(_memory_of(_our_command("pocket"), options.requests))


async def _memory_of(command: list[str], requests: int) -> dict[str, Any]:
    texts = questions(1000)
    sizes: dict[int, int] = {}
    with _running(command) as server:
        async with _Session(server.url, raise_for_status=True) as session:

            async def ask(count: int) -> None:
                for i in range(count):
                    await _post(session, "/v1/embeddings", {"input": [texts[i % len(texts)]]})

            for done in range(0, requests + 1, requests // 10):
                sizes[done] = _memory_mb(server.pid)
                if done < requests:
                    await asyncio.gather(*(ask(requests // 160) for _ in range(16)))
    return {"model": "pocket", "clients": 16, "MB after requests": sizes}


def _our_command(embedder: str, *rerankers: str) -> list[str]:
    chosen = [argument for each in rerankers for argument in ("--reranker", each)]
    module = [sys.executable, "-m", "bge_integrations.serving", embedder, *chosen]
    return [*module, "--device", "cpu", "--dtype", "float32"]


def _infinity_command(embedder: str, reranker: str) -> list[str]:
    command = [str(_INFINITY), "v2", "--host", "127.0.0.1", "--device", "cpu", "--engine", "torch"]
    command += ["--dtype", "float32", "--url-prefix", "/v1"]
    for model in (embedder, reranker):
        command += ["--model-id", model, "--served-model-name", Path(model).name, "--no-model-warmup"]
    return command


def _infinity_versions() -> str:
    if not _INFINITY.exists():
        return "not installed"
    script = "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in %r), sep=', ')"
    names = [*PEERS["infinity_emb"].distributions, "uvicorn"]
    return subprocess.check_output([PEERS["infinity_emb"].python, "-c", script % (names,)], text=True).strip()


@contextmanager
def _running(command: list[str]) -> Iterator[_Server]:
    """Run a server until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    quiet: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--port", str(port)], env=environment, **quiet)
    try:
        listening = _seconds_until_answered(f"{url}/health", None, started)
        ready = _seconds_until_answered(f"{url}/v1/embeddings", {"input": "Hi", **_model(command)}, started)
        if "--reranker" in command:  # infinity answers nothing before both are loaded
            ready = _seconds_until_answered(f"{url}/v1/rerank", {"query": "Hi", "documents": ["Hi"]}, started)
        yield _Server(url, process.pid, listening, ready)
    finally:
        process.terminate()
        process.wait(60)


def _model(command: list[str]) -> dict[str, str]:
    return {} if "pocket" in command else {"model": "bge-small-en-v1.5"}


def _seconds_until_answered(url: str, body: dict[str, Any] | None, started: float) -> float:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    while time.perf_counter() - started < _LONGEST_START:
        with suppress(OSError), urllib.request.urlopen(request, timeout=_LONGEST_START) as answer:
            answer.read()
            return time.perf_counter() - started
        time.sleep(0.01)
    raise TimeoutError(f"the server did not answer within {_LONGEST_START} seconds")


def _rounded(value: Any) -> Any:
    """Return results with four significant digits."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _memory_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1000)


if __name__ == "__main__":
    main()
