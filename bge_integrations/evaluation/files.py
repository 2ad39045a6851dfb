"""Results on disk: destinations are checked before anything is computed, and files are written whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bge_integrations.atomic_files import write_atomically
from bge_integrations.errors import InvalidInputError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a file, atomically; missing folders are created.

    A link is followed. A device, a pipe or standard output is written to directly.

    Raises:
        InvalidInputError: As in `check_file`.
    """
    check_file(path)
    content = text.encode("utf-8")
    if _is_standard_output(path):
        sys.stdout.flush()  # what was printed comes first
        with open(1, "wb", closefd=False) as stream:
            stream.write(content)
    elif _is_special(path):
        Path(path).write_bytes(content)
    else:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise InvalidInputError unless a file, an existing device or an existing pipe can be written to."""
    if not os.fspath(path):
        raise InvalidInputError("the file's name is empty; name a file")
    if Path(path).is_dir():
        raise InvalidInputError(f"{path} is a folder; name a file")
    if _is_standard_output(path):
        return
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise InvalidInputError(f"{path} can't be written to; name another file")
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise InvalidInputError(f"{path} is a link that leads to itself; name another file")
    check_folder(target.parent)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise InvalidInputError unless files can be written into this folder, which may not exist yet."""
    if not os.fspath(folder):
        raise InvalidInputError("the folder's name is empty; name a folder")
    path = Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise InvalidInputError(f"{existing} is a file; name a folder")
    if not os.access(existing, os.W_OK):
        raise InvalidInputError(f"{existing} can't be written to; name another folder")


def _is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether standard output goes to this file, which must then not be replaced while it is written to."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:  # there is no such file, or no standard output
        return False


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether this is a device, a pipe or a socket, which can't be replaced by a file."""
    return Path(path).exists() and not Path(path).is_file()
