"""A storage engine, and the lock that its readers share and its writers hold exclusively."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bge_integrations.errors import ClosedError, NotSupportedError

if TYPE_CHECKING:
    from bge_integrations.index.engine import Engine, FieldKind
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.manifest import Manifest


class SharedEngine:
    """An engine and its state, shared by all indexes that this process has open on the same folder.

    Attributes:
        engine: The engine.
        lock: The engine's lock.
        manifest: The settings of the index; only its defaults change, under the lock.
        fields: The metadata keys that have an index.
        written, flushed: Numbers of documents, updated under the lock.
    """

    def __init__(self, engine: Engine, lock: ReadWriteLock, manifest: Manifest) -> None:
        self.engine = engine
        self.lock = lock
        self.manifest = manifest
        self.fields: dict[str, FieldKind] = engine.indexed_fields()
        self.written = 0
        self.flushed = 0


class Store:
    """One index's access to an engine under its lock.

    Args:
        shared: The engine and its lock.
        read_only: Refuse to write.
    """

    def __init__(self, shared: SharedEngine, read_only: bool = False) -> None:
        self.shared = shared
        self.read_only = read_only
        self._lock = shared.lock
        self._closed = False
        self._process = os.getpid()

    @property
    def engine(self) -> Engine:
        """The engine, for calls that need no lock or already hold it.

        Raises:
            ClosedError: The index was closed, or this is a forked child of the process that opened it.
        """
        if self._process != os.getpid():  # the locks and the engine are copies whose threads are missing
            raise ClosedError(
                "this M3Index was opened before the process was forked, and only the parent process can use it",
                advice="open the index in the worker, after the fork; if several processes need it at the same time, "
                "open it with read_only=True, or run a Qdrant server and open its URL in each of them",
            )
        if self._closed:
            raise ClosedError("the index was closed", advice="open it again")
        return self.shared.engine

    def check_writable(self) -> None:
        """Raise NotSupportedError if the index is read-only, and ClosedError if it was closed."""
        _ = self.engine
        if self.read_only:
            raise NotSupportedError(
                "the index was opened with read_only=True, so it can't be changed",
                advice="open it without read_only to add, delete or optimise",
            )

    @contextmanager
    def read(self) -> Iterator[Engine]:
        """Yield the engine, sharing its lock with other readers."""
        _ = self.engine  # in a forked child, waiting for the lock could take forever
        with self._lock.read():
            yield self.engine

    @contextmanager
    def write(self) -> Iterator[Engine]:
        """Yield the engine, holding its lock exclusively."""
        self.check_writable()
        with self._lock.write():
            yield self.engine

    def close(self) -> None:
        """Wait for readers and writers, and reject new ones. The engine itself stays open.

        In a forked child, this does nothing.
        """
        if self._process != os.getpid():
            return
        with self._lock.write():
            self._closed = True
