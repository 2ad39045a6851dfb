"""Servers over real sockets: one in a process of its own, and others in threads of the tests' process."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn
from conftest import BASE, wait_until
from fastapi import FastAPI

from bge_integrations.core.runner import ModelRunner
from bge_integrations.serving import ServerSettings, create_app

DOCUMENTS = ["Pandas eat bamboo.", "Rome lies on the Tiber.", "The giant panda sleeps in trees."]


class ServerProcess(NamedTuple):
    """A running `bge serve`: its process, URL and log."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextmanager
def server_process(folder: Path, *arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """Run `bge serve` until the end of the block; it listens, but may not be ready."""
    log = folder / "server.log"
    with log.open("wb") as opened:
        process = subprocess.Popen(
            [sys.executable, "-m", "bge_integrations.serving", *arguments],
            stderr=opened,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
    try:
        wait_until(lambda: process.poll() is not None or "listening on" in log.read_text("utf-8"), 60)
        assert process.poll() is None, log.read_text("utf-8")
        found = re.search(r"listening on (http://[\w.:]+)", log.read_text("utf-8"))
        yield ServerProcess(process, found[1] if found else "http://server", log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()


@contextmanager
def demo_server(folder: Path) -> Iterator[ServerProcess]:
    """A server with both pocket models, a model with an instruction, and the index "demo" of `DOCUMENTS`."""
    models = ["pocket", BASE, "--reranker", "pocket", "--index", f"demo={folder / 'index'}", "--create-indexes"]
    names = ["--served-model-name", "text-embedding-3-small"]
    with server_process(folder, *models, *names, "--port", "0") as started:
        wait_until(lambda: httpx.get(f"{started.url}/ready").status_code == 200, 120)
        added = httpx.post(
            f"{started.url}/v1/indexes/demo/documents",
            json={"texts": DOCUMENTS, "ids": ["pandas", "rome", "trees"], "metadata": [{"n": n} for n in range(3)]},
            timeout=60,
        )
        assert added.status_code == 200, added.text
        yield started


class AppServer(NamedTuple):
    """An application that is served by a thread: the application, its URL, and a client."""

    app: FastAPI
    url: str
    api: httpx.Client


@contextmanager
def app_server(app: FastAPI | None = None, **settings: Any) -> Iterator[AppServer]:
    """Serve an application, by default with the pocket embedder, over a socket until the end of the block."""
    app = app or create_app(ServerSettings(**{"models": ["pocket"], **settings}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                wait_until(lambda: running.started)
                yield AppServer(app, url, client)
        finally:
            running.should_exit = True
            thread.join(60)


def wait_until_ready(served: AppServer) -> None:
    wait_until(lambda: served.app.state.service.is_ready, 60)


class Gate(NamedTuple):
    """Holds the device's worker: no batch is computed until `open` is set. `computed` has the batches' sizes."""

    open: threading.Event
    is_held: threading.Event
    computed: list[int]


@contextmanager
def held_device() -> Iterator[Gate]:
    """Hold the worker of the device until the end of the block, or until the gate is opened."""
    made = Gate(threading.Event(), threading.Event(), [])
    run = ModelRunner.run

    def run_when_open(runner: ModelRunner, batch: list[Any], between_layers: Callable[[], None]) -> None:
        made.is_held.set()
        assert made.open.wait(60)
        made.computed.append(len(batch))
        run(runner, batch, between_layers)

    ModelRunner.run = run_when_open  # type: ignore[method-assign]
    try:
        yield made
    finally:
        made.open.set()
        ModelRunner.run = run  # type: ignore[method-assign]
