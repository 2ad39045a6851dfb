"""Replace files atomically: after a crash a file has either its old content or all of its new content."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, or create it; its content is on disk when this returns."""
    with atomic_writer(path) as file:
        file.write(content)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` when the block ends.

    If the block raises, `path` is unchanged. Until then the new file is `.NAME.RANDOM.new` in the same folder; only a
    killed process leaves one behind.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with new.open("xb") as file:
            yield file
        if path.exists():
            shutil.copymode(path, new)
        move_atomically(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def move_atomically(source: Path, target: Path) -> None:
    """Move a file to `target` on the same file system, replacing it; its content is on disk before it moves."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries, the names of its files, to disk."""
    if os.name == "posix":  # folders can't be opened on Windows
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def link_files(files: Iterable[Path], folder: Path) -> None:
    """Link files into a folder under their own names, or copy them where links are not allowed; keep those it has."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = folder / file.name
        if target.exists():
            continue
        new = target.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
        try:
            new.symlink_to(file.absolute())
        except OSError:  # Windows without developer mode
            shutil.copy2(file, new)
        new.replace(target)
