"""Use everything at once for a while: 64 threads and 256 tasks, with cancellations, closes and errors.

    python scripts/soak.py --minutes 20

Embedders, rerankers, two indexes and a server (asked by our client) share this process. Each result is compared with
the one that a single thread got before: they may differ by 1e-6 of it, or of 1 if it is smaller. At the end nothing may
hang, and memory, threads and open files must be about what they were after the first part of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from numpy.typing import ArrayLike

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core.embedder import Embedder
from bge_integrations.core.reranker import Reranker
from bge_integrations.errors import ClosedError, InvalidInputError, OverloadedError
from bge_integrations.index import M3Index
from bge_integrations.serving import ServerSettings, create_app

CHECKPOINTS = Path(__file__).parents[1] / "tests" / "oracle" / "checkpoints"
TOLERANCE = 1e-6
#: Seconds without any finished call after which the threads and tasks that are left count as hanging.
PATIENCE = 300
TEXTS = [f"{animal} {number} " + "eats bamboo and fish in the forest " * (number * number // 4) for number in range(20)
         for animal in ("Panda", "Heron", "熊猫")]  # fmt: skip
QUESTIONS = ["What do pandas eat?", "Where is the heron?", "熊猫吃什么？"]
#: Maximum growth of memory in bytes, and of open files, from the first part of the run to its end. The client keeps up
#: to 20 connections to the server open, and both ends of each are in this process.
GROWTH, MORE_FILES = 100 << 20, 48


class Use(NamedTuple):
    """What a process uses: bytes of memory, threads and open files."""

    memory: int
    threads: int
    files: int

    @classmethod
    def now(cls) -> Use:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads = len(list(Path("/proc/self/task").iterdir()))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), threads, len(list(Path("/proc/self/fd").iterdir())))


class Soak:
    """The models and indexes, the results that a single thread gets, and what was done with them.

    Args:
        folder: A new folder for the indexes.
        holds: Closes everything at the end.
    """

    def __init__(self, folder: Path, holds: ExitStack) -> None:
        local = [
            load_embedder("pocket"),
            load_embedder(CHECKPOINTS / "bge-m3"),
            load_embedder(CHECKPOINTS / "bge-en-icl"),
        ]
        rerankers = [load_reranker("pocket"), load_reranker(CHECKPOINTS / "bge-reranker-v2-m3")]
        self.index = holds.enter_context(M3Index.open(folder / "index", local[0]))
        self.index.add(
            TEXTS, ids=[str(i) for i in range(len(TEXTS))], metadatas=[{"n": i % 5} for i in range(len(TEXTS))]
        )
        self.changing = holds.enter_context(M3Index.open(folder / "changing", local[0]))
        url = holds.enter_context(server())
        # the server has the pocket models, so its results must be theirs
        self.embedders: list[tuple[Embedder, int]] = [(each, i) for i, each in enumerate(local)]
        self.embedders.append((load_embedder(url), 0))
        self.rerankers: list[tuple[Reranker, int]] = [(each, i) for i, each in enumerate(rerankers)]
        self.rerankers.append((load_reranker(url), 0))
        for embedder, _ in self.embedders:
            holds.callback(embedder.close)
        for reranker, _ in self.rerankers:
            holds.callback(reranker.close)
        self.vectors = [np.vstack([e.encode([text], kind="passage").dense for text in TEXTS]) for e in local]  # type: ignore[misc]
        self.scores = [np.array([[r.score([(q, t)])[0] for t in TEXTS] for q in QUESTIONS]) for r in rerankers]
        self.hits = [self.index.search(question, 5) for question in QUESTIONS]
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def count(self, action: str) -> None:
        with self._lock:
            self.done[action] += 1

    def compare(self, found: ArrayLike | None, expected: ArrayLike) -> None:
        assert found is not None
        found, expected = np.asarray(found), np.asarray(expected)
        difference = np.abs(found - expected).max(initial=0)
        if not difference <= TOLERANCE * np.abs(expected).max(initial=1):
            raise AssertionError(f"a result differs by {difference}")

    # What a thread does, each time with texts that are chosen at random

    def encode(self, random: Random) -> None:
        embedder, row = random.choice(self.embedders)
        some = random.choices(range(len(TEXTS)), k=random.choice((1, 1, 2, 8, 20)))
        found = embedder.encode(
            [TEXTS[i] for i in some], kind="passage", sparse=embedder.has_sparse and random.random() < 0.3
        )
        self.compare(found.dense, self.vectors[row][some])

    def score(self, random: Random) -> None:
        reranker, row = random.choice(self.rerankers)
        question = random.randrange(len(QUESTIONS))
        some = random.choices(range(len(TEXTS)), k=random.choice((1, 2, 16)))
        self.compare(reranker.score([(QUESTIONS[question], TEXTS[i]) for i in some]), self.scores[row][question][some])

    def search(self, random: Random) -> None:
        question = random.randrange(len(QUESTIONS))
        found = self.index.search(QUESTIONS[question], 5)
        self.compare([hit.score for hit in found], [hit.score for hit in self.hits[question]])
        allowed = random.randrange(5)
        assert all(
            hit.metadata["n"] == allowed for hit in self.index.search(QUESTIONS[question], 3, filter={"n": allowed})
        )

    def change(self, random: Random) -> None:
        own = f"{threading.get_ident()}-{random.randrange(3)}"
        text = random.choice(TEXTS)
        self.changing.add([text], ids=[own])
        assert [document.text for document in self.changing.get([own])] == [text]
        if random.random() < 0.5:
            assert self.changing.delete([own]) == 1
            assert self.changing.get([own]) == []

    def open_and_close(self, random: Random) -> None:
        with load_embedder(CHECKPOINTS / "bge-base-en-v1.5") as embedder:
            embedder.encode([random.choice(TEXTS)], kind="passage")
        with suppress(ClosedError):
            embedder.encode(["after close"], kind="passage")
            raise AssertionError("a closed embedder has computed a vector")

    def fail(self, random: Random) -> None:
        embedder, _ = random.choice(self.embedders)
        with suppress(InvalidInputError):
            wrong: Any = random.choice([[None], ["\ud800"], "text", 5])
            embedder.encode(wrong, kind="passage")
            raise AssertionError("bad input was accepted")

    # What a task does

    async def aencode(self, random: Random) -> None:
        embedder, row = random.choice(self.embedders)
        some = random.choices(range(len(TEXTS)), k=random.choice((1, 4, 30)))
        found = await embedder.aencode([TEXTS[i] for i in some], kind="passage")
        self.compare(found.dense, self.vectors[row][some])

    async def ascore(self, random: Random) -> None:
        reranker, row = random.choice(self.rerankers)
        chosen = random.randrange(len(TEXTS))
        self.compare(await reranker.ascore([(QUESTIONS[0], TEXTS[chosen])]), self.scores[row][0][[chosen]])

    async def asearch(self, random: Random) -> None:
        found = await self.index.asearch(QUESTIONS[1], 5)
        self.compare([hit.score for hit in found], [hit.score for hit in self.hits[1]])

    async def cancel(self, random: Random) -> None:
        work = random.choice((self.aencode, self.ascore, self.asearch))
        with suppress(TimeoutError):
            await asyncio.wait_for(work(random), random.random() * 0.05)


@contextmanager
def server() -> Iterator[str]:
    """Serve the pocket models from a thread, and yield the URL."""
    app = create_app(ServerSettings(models=["pocket"], rerankers=["pocket"]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}?timeout=600"
        finally:
            running.should_exit = True
            thread.join(60)


def run(soak: Soak, seconds: float, threads: int, tasks: int, seed: int) -> None:
    """Let threads and tasks work until the end; exit if one of them hangs."""
    end = time.monotonic() + seconds
    sync: tuple[Callable[[Random], None], ...] = (
        *(soak.encode, soak.encode, soak.score, soak.search, soak.change, soak.open_and_close, soak.fail),
    )
    deferred: tuple[Callable[[Random], Awaitable[None]], ...] = (soak.aencode, soak.ascore, soak.asearch, soak.cancel)

    def note(action: str, error: BaseException | None) -> None:
        soak.count(action)
        if error is not None:
            soak.wrong.append("".join(traceback.format_exception(error)))

    def work(number: int) -> None:
        random = Random(f"{seed} thread {number}")
        while time.monotonic() < end:
            action = random.choice(sync)
            error: BaseException | None = None
            try:
                action(random)
            except OverloadedError:  # the server lets full queues refuse calls
                soak.count("refused")
            except Exception as caught:
                error = caught
            note(action.__name__, error)

    async def task(number: int) -> None:
        random = Random(f"{seed} task {number}")
        while time.monotonic() < end:
            action = random.choice(deferred)
            error: BaseException | None = None
            try:
                await action(random)
            except OverloadedError:
                soak.count("refused")
                await asyncio.sleep(0.1)
            except Exception as caught:
                error = caught
            note(getattr(action, "__name__", "task"), error)

    async def all_tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(tasks)))

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    workers.append(threading.Thread(target=lambda: asyncio.run(all_tasks()), daemon=True))
    for worker in workers:
        worker.start()
    for worker in workers:
        finished = -1
        while worker.is_alive():
            if finished == (finished := sum(soak.done.values())):
                faulthandler.dump_traceback()
                print("a thread or task hangs", flush=True)
                os._exit(1)
            worker.join(max(0.0, end - time.monotonic()) + PATIENCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as holds:
        soak = Soak(Path(folder), holds)
        seconds = 60 * arguments.minutes
        run(soak, seconds / 5, arguments.threads, arguments.tasks, arguments.seed)
        before = Use.now()
        run(soak, seconds * 4 / 5, arguments.threads, arguments.tasks, arguments.seed + 1)
        after = Use.now()
    print(", ".join(f"{action} {count}" for action, count in soak.done.most_common()))
    print(
        f"after a fifth of the time: {before.memory / 1e6:.0f} MB, {before.threads} threads, {before.files} open files"
    )
    print(f"at the end: {after.memory / 1e6:.0f} MB, {after.threads} threads, {after.files} open files")
    for each in soak.wrong[:5]:
        print(each)
    is_level = (
        after.memory <= before.memory + GROWTH
        and after.threads <= before.threads
        and after.files <= before.files + MORE_FILES
    )
    print(f"{sum(soak.done.values())} calls, {len(soak.wrong)} wrong, {'level' if is_level else 'NOT level'}")
    sys.exit(0 if is_level and not soak.wrong else 1)


if __name__ == "__main__":
    main()
