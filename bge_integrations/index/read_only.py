"""Opening a folder for reading only, from a private copy."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from bge_integrations.errors import IndexLockedError, IndexNotFoundError
from bge_integrations.index.files import copy_folder, disk_use
from bge_integrations.index.folder import Folder, IndexFiles
from bge_integrations.index.lock_holder import holder_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Times to copy a folder that is written to at the same moment.
_TRIES = 3
_logger = logging.getLogger(__name__)


def copy_for_reading(path: str | os.PathLike[str], owned: ExitStack) -> Folder:
    """Return a private copy of an index's folder; `owned` closes and removes it. The folder itself is only read.

    The engine opens all files for writing and locks them, so that it can't share them.

    Raises:
        IndexNotFoundError: There is no index.
        IndexLockedError: Another process has the folder open for writing.
        DiskFullError: There is not enough space for the copy.
    """
    source = IndexFiles(path)
    if not source.path.is_dir() or source.manifest() is None:
        raise IndexNotFoundError(f"there is no index in {source.path}", advice="check the path")
    for _ in range(_TRIES):
        copy = _copy(source, owned)
        if copy is not None:
            return copy
    raise _locked(source)


def _copy(source: IndexFiles, owned: ExitStack) -> Folder | None:
    """Copy the folder once. Return None if somebody wrote to it meanwhile."""
    if _is_locked(source.lock_file):
        raise _locked(source)
    with ExitStack() as trial:
        target = Path(tempfile.mkdtemp(prefix="bge-index-"))
        trial.callback(shutil.rmtree, target, ignore_errors=True)
        folder = Folder(target)
        trial.callback(folder.close)
        before = _state(source.path)
        try:
            shard, manifest, points = source.shard(), source.manifest(), source.optimized_points()
            copied = [path for path in (shard, source.multi_vectors) if path.is_dir()]
            folder.check_room(sum(map(disk_use, copied)))
            for path in copied:
                copy_folder(path, target / path.name)
        except (FileNotFoundError, shutil.Error):
            if _state(source.path) == before:
                raise
            return None
        if manifest is None or _is_locked(source.lock_file) or _state(source.path) != before:
            return None
        for path in (target, *target.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)  # the copies of read-only folders are read-only, too
        folder.complete(target / shard.name, manifest, points)
        _logger.info("reading the index in %s from a private copy of %d MB", source.path, disk_use(target) >> 20)
        owned.push(trial.pop_all())
        return folder


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and time of change of each file."""
    return {
        os.path.join(root, name): (status.st_size, status.st_mtime_ns)
        for root, _, names in os.walk(folder)
        for name in names
        if os.path.exists(path := os.path.join(root, name)) and (status := os.stat(path))
    }


def _is_locked(lock_file: Path) -> bool:
    """Return whether a process has the folder open for writing. Writes nothing."""
    if not lock_file.exists():
        return False
    if fcntl is None:
        try:
            with FileLock(lock_file, timeout=0):
                return False
        except Timeout:
            return True
    try:
        descriptor = os.open(lock_file, os.O_RDONLY)
    except PermissionError:  # it can't be told, and what is copied is compared before and after
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _locked(source: IndexFiles) -> IndexLockedError:
    return IndexLockedError(
        f"{source.path} is open for writing in {holder_of(source.lock_file)}",
        advice="close it there, open a copy made there with index.copy_to, or run a Qdrant server and open its URL",
    )
