"""Files of an index: how much room they take, copies of them, and having them on disk for good."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import IO

_PIECE = 1 << 20


def disk_use(folder: Path) -> int:
    """Bytes that the files in the folder take on disk: the engine's are long, and mostly holes at first."""
    sizes = (path.stat() for path in folder.rglob("*"))
    return sum(min(size.st_size, getattr(size, "st_blocks", sys.maxsize) * 512) for size in sizes)


def copy_folder(source: Path, target: Path) -> None:
    """Copy all in the folder, holes as holes, into a new one."""
    shutil.copytree(source, target, copy_function=_copy_file)


def sync(folder: Path) -> None:
    """Return when all in the folder is on disk: copied files are not until then, and a power cut would lose them."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_entries(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_entries(folder.parent)


def sync_entries(folder: Path) -> None:
    """Return when the names in the folder are on disk."""
    if os.name == "posix":  # elsewhere folders can't be opened
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


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
            except OSError:  # nothing but a hole from here on
                return
            end = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
            _copy_span(old, new, begin, end)


def _copy_span(old: IO[bytes], new: IO[bytes], begin: int, end: int) -> None:
    old.seek(begin)
    new.seek(begin)
    while begin < end and (piece := old.read(min(_PIECE, end - begin))):
        new.write(piece)
        begin += len(piece)
