"""Optimising a Qdrant Edge shard: a separate process builds the search graphs on a copy of the files."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import qdrant_edge as edge

from bge_integrations.errors import ClosedError, DiskFullError, StorageError
from bge_integrations.index import optimize_shard
from bge_integrations.index.compacting import compact
from bge_integrations.index.edge_types import engine_errors
from bge_integrations.index.files import copy_folder, disk_use, sync

if TYPE_CHECKING:
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.vector_files import VectorFiles

#: Comparing a query with this many points takes about 4 ms at 1024 dimensions. Beyond that, a graph pays off.
_UNOPTIMIZED_POINTS = 20_000
#: Number of points, changed during an optimisation, that are copied at a time. Searches run in between.
_COPIED_POINTS = 8

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class CurrentShard:
    """The shard in use, which an optimisation replaces under the write lock."""

    path: Path
    shard: edge.EdgeShard

    def __post_init__(self) -> None:
        _current_shards.add(self)


#: The shards that this process has open.
_current_shards: WeakSet[CurrentShard] = WeakSet()


def _leave_shards_to_the_parent() -> None:
    """Make a forked child harmless to the shards that its parent has open.

    The child never destroys them: that would join a thread that only its parent has, and crash. And it closes its
    copies of the engine's lock files: otherwise, nobody could open the folder for as long as the child lives.
    """
    locked = set()
    for current in list(_current_shards):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(current.shard))
        for path in current.path.parent.glob("shard-*/wal"):  # the engine locks this folder
            with suppress(OSError):
                locked.add(_identity(path))
    if locked:
        for descriptor in map(int, os.listdir("/dev/fd")):
            with suppress(OSError):  # one of them has listed the folder, and is closed now
                if _identity(descriptor) in locked:
                    os.close(descriptor)


def _identity(file: Path | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_shards_to_the_parent)


class Optimizer:
    """Optimises the current shard, one optimisation at a time, while searches and writes go on.

    Args:
        folder: The folder of the index.
        lock: The lock of the index.
        current: The shard in use.
        files: The files of multi-vectors, compacted before the shard is copied; None if there are none.
        unoptimized: Number of points that are not in the search graphs.
    """

    def __init__(
        self, folder: Folder, lock: ReadWriteLock, current: CurrentShard, files: VectorFiles | None, unoptimized: int
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._current = current
        self._files = files
        self._unoptimized = unoptimized
        self._changed: set[str] | None = None  # points written while a copy is optimised
        self._running = threading.Lock()
        self._thread: int | None = None
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def note_changes(self, points: Iterable[str]) -> None:
        """Record points that are about to be written. The caller holds the write lock."""
        changed = set(points)
        self._unoptimized += len(changed)
        if self._changed is not None:
            self._changed |= changed

    def start(self) -> Future[None]:
        """Optimise in a thread, so that Ctrl-C can't interrupt the switch to the copy."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                self._optimize()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=run, name="bge-optimize", daemon=True).start()
        return done

    def start_if_due(self) -> None:
        """Optimise in the background if there are many new points."""
        due_at = max(_UNOPTIMIZED_POINTS, self._folder.optimized_points() // 4)
        if self._unoptimized >= due_at and not self._running.locked():
            self.start().add_done_callback(_log_failure)

    def stop(self) -> bool:
        """Interrupt a running optimisation and wait until it ends. Later ones raise ClosedError.

        Returns:
            Whether it has ended. The optimiser's own thread, where the garbage collector may close an index, can't wait
            for itself.
        """
        self._stopped.set()
        if self._thread == threading.get_ident():
            return False
        with self._running:
            return True

    def _optimize(self) -> None:
        with self._running:
            self._thread = threading.get_ident()
            if self.stopped:
                raise ClosedError("the index was closed", advice="open it again")
            _logger.info("optimising the index in %s: %d new points", self._folder.path, self._unoptimized)
            begun = time.monotonic()
            self._compact()
            self._unoptimized = 0
            copy = self._folder.new_shard()
            try:
                with self._lock.snapshot():
                    copy_shard(self._current, copy, self._folder, times=2)
                    self._changed = set()
                self._run_process(copy)
                sync(copy)
                self._switch_to(copy)
            except BaseException:
                if self._current.path != copy:
                    shutil.rmtree(copy, ignore_errors=True)
                raise
            finally:
                self._changed = None
                self._thread = None
            _logger.info("optimised the index in %s in %.1f s", self._folder.path, time.monotonic() - begun)

    def _run_process(self, shard: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-P", optimize_shard.__file__, str(shard), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
        at_exit = weakref.finalize(self, process.kill)
        try:
            while True:
                try:
                    _, stderr = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    self._check_not_stopped()
        finally:
            at_exit()  # has no effect if the process has ended
            process.wait()
        if process.returncode:
            raise StorageError(
                f"optimising failed with exit status {process.returncode}: {stderr.decode(errors='replace')[-500:]}"
            )

    def _switch_to(self, path: Path) -> None:
        """Copy the points changed meanwhile to the optimised shard, and switch to it."""
        assert self._changed is not None
        with engine_errors():
            shard = edge.EdgeShard.load(str(path))
            while len(self._changed) > _COPIED_POINTS:
                self._check_not_stopped()
                with self._lock.read():
                    self._copy_points([self._changed.pop() for _ in range(_COPIED_POINTS)], shard)
            with self._lock.write():
                self._copy_points(list(self._changed), shard)  # the few points written since the loop
                self._copy_field_indexes(shard)
                shard.flush()
                self._folder.check_exists()  # there can be another index in its place
                old_path, old_shard = self._current.path, self._current.shard
                try:
                    self._folder.switch(path, shard.count(edge.CountRequest()))
                finally:  # if only its last step failed, the copy is opened next time, so use it for writes
                    if self._folder.shard() == path:
                        self._current.path, self._current.shard = path, shard
            old_shard.close()
        shutil.rmtree(old_path, ignore_errors=True)

    def _compact(self) -> None:
        if self._files is not None:
            compact(self._files, self._current.shard, self._folder, self._lock, self._before_move)

    def _before_move(self, points: Iterable[str]) -> None:
        self._check_not_stopped()
        self.note_changes(points)

    def _check_not_stopped(self) -> None:
        if self.stopped:
            raise ClosedError("the index was closed while it was being optimised", advice="open it again")

    def _copy_points(self, points: Sequence[str], shard: edge.EdgeShard) -> None:
        if not points:
            return
        stored = self._current.shard.retrieve(list(points), with_payload=True, with_vector=True)
        deleted = set(points).difference(str(point.id) for point in stored)
        if stored:
            copies = [edge.Point(point.id, point.vector, point.payload) for point in stored]  # type: ignore[arg-type]
            shard.update(edge.UpdateOperation.upsert_points(copies))
        if deleted:
            shard.update(edge.UpdateOperation.delete_points(list(deleted)))

    def _copy_field_indexes(self, shard: edge.EdgeShard) -> None:
        indexed = shard.info().payload_schema
        for path, field in self._current.shard.info().payload_schema.items():
            if path not in indexed:
                shard.update(edge.UpdateOperation.create_field_index(path, field.data_type))


def copy_shard(current: CurrentShard, target: Path, folder: Folder, times: int) -> None:
    """Copy a shard's files to `target`, if the folder has room for them this many times."""
    if not current.path.is_dir():
        raise StorageError(f"{current.path} is gone", advice="open the index again")
    with engine_errors():
        current.shard.flush()
    folder.check_room(times * disk_use(current.path))
    copy_folder(current.path, target)


def _log_failure(done: Future[None]) -> None:
    """Log a failed background optimisation."""
    error = done.exception()
    if isinstance(error, DiskFullError):
        _logger.warning("the index was not optimised, so searches are slower: %s", error)
    elif error is not None and not isinstance(error, ClosedError):
        _logger.error("the index was not optimised, so searches are slower", exc_info=error)
