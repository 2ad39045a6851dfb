"""A lock that many readers share and one writer holds exclusively."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """A lock held by any number of readers or by one writer. Not reentrant.

    A waiting writer takes precedence over readers that arrive later, so that neither side starves.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting_writers = 0
        self._snapshots = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and not self._waiting_writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold the lock for a long read. Unlike with `read`, a waiting writer does not block other readers."""
        with self._changed:
            self._snapshots += 1
        try:
            with self.read():
                yield
        finally:
            with self._changed:
                self._snapshots -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock exclusively."""
        with self._changed:
            self._changed.wait_for(lambda: not self._snapshots)
            self._waiting_writers += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting_writers -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
