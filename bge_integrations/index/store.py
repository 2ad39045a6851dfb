"""A storage engine and the lock that its readers share and its writers hold exclusively."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bge_integrations.errors import ClosedError

if TYPE_CHECKING:
    from bge_integrations.index.engine import Engine
    from bge_integrations.index.locking import ReadWriteLock


class Store:
    """Gives access to an engine under its lock.

    Args:
        engine: The engine.
        lock: The engine's lock.
    """

    def __init__(self, engine: Engine, lock: ReadWriteLock) -> None:
        self._engine = engine
        self._lock = lock
        self._closed = False

    @property
    def engine(self) -> Engine:
        """The engine, for calls that need no lock or already hold it.

        Raises:
            ClosedError: The index was closed.
        """
        if self._closed:
            raise ClosedError("the index was closed", advice="open it again")
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Engine]:
        """Yield the engine, sharing its lock with other readers."""
        with self._lock.read():
            yield self.engine

    @contextmanager
    def write(self) -> Iterator[Engine]:
        """Yield the engine, holding its lock exclusively."""
        with self._lock.write():
            yield self.engine

    def close(self) -> None:
        """Wait for readers and writers, and reject new ones. The engine itself stays open."""
        with self._lock.write():
            self._closed = True
