"""The event loop of all network connections in this process, which runs in a thread of its own.

The clients of servers and the fetching of images use it. So any thread and any event loop can use a connection, and a
call never blocks the caller's loop. A forked child gets a loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NetworkLoop:
    """The loop of this process; started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Loops of parent processes, kept because closing one would close the parent's connections.
        self._inherited: list[asyncio.AbstractEventLoop] = []

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="bge-network", daemon=True).start()
            return self._loop

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._loop is not None:
            self._inherited.append(self._loop)
        self._loop = None


_network = _NetworkLoop()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_network.reset_after_fork)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the network loop and wait for its result; an interrupted caller cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _network.loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def arun(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the network loop without blocking the caller's; cancelling the caller cancels it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _network.loop()))


def submit(work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine on the network loop without waiting for it."""
    asyncio.run_coroutine_threadsafe(work, _network.loop())
