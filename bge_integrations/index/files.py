"""An index's files: disk usage, copying, and flushing to disk."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import IO

from bge_integrations.atomic_files import sync_folder
from bge_integrations.errors import DiskFullError, StorageError

_PIECE = 1 << 20


def disk_use(folder: Path) -> int:
    """Return the bytes that a folder's files occupy on disk. The engine's files are sparse, at first mostly holes."""
    sizes = (path.stat() for path in folder.rglob("*"))
    return sum(min(size.st_size, getattr(size, "st_blocks", sys.maxsize) * 512) for size in sizes)


def write_error(path: Path, error: OSError) -> DiskFullError | StorageError:
    """Return the error to raise when a file of an index could not be written."""
    if error.errno == errno.ENOSPC:
        advice = "free some disk space and run it again"
        return DiskFullError(errno.ENOSPC, "the disk is full", os.fspath(path), advice=advice)
    return StorageError(f"{path} can't be written: {error}")


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a new one, and preserve the holes in its files."""
    shutil.copytree(source, target, copy_function=_copy_file)


def sync(folder: Path) -> None:
    """Flush everything in the folder to disk, so that a power cut can't lose copied files."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder.parent)


def _copy_file(source: str, target: str) -> None:
    if not hasattr(os, "SEEK_DATA"):
        shutil.copyfile(source, target)
        return
    with open(source, "rb", buffering=0) as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        end = 0
        while end < size:
            try:
                begin = os.lseek(old.fileno(), end, os.SEEK_DATA)
            except OSError:  # the rest of the file is a hole
                return
            end = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
            _copy_span(old, new, begin, end)


def _copy_span(old: IO[bytes], new: IO[bytes], begin: int, end: int) -> None:
    old.seek(begin)
    new.seek(begin)
    while begin < end and (piece := old.read(min(_PIECE, end - begin))):
        new.write(piece)
        begin += len(piece)
