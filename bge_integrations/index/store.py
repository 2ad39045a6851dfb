"""A storage engine that searches share and writers hold exclusively, until it is closed."""

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
        """The engine, for what needs no lock or is done under it.

        Raises:
            ClosedError: The index was closed.
        """
        if self._closed:
            raise ClosedError("the index was closed; open it again")
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Engine]:
        """Hold the engine together with other readers."""
        with self._lock.read():
            yield self.engine

    @contextmanager
    def write(self) -> Iterator[Engine]:
        """Hold the engine exclusively."""
        with self._lock.write():
            yield self.engine

    def close(self) -> None:
        """Wait for readers and writers, and refuse further ones. The engine itself stays open."""
        with self._lock.write():
            self._closed = True
