"""Write results to disk: check destinations before anything is computed, and write files atomically."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bge_integrations.atomic_files import write_atomically
from bge_integrations.errors import InvalidInputError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a file atomically, and create missing folders.

    Links are followed. Devices, pipes and standard output are written to directly.

    Raises:
        InvalidInputError: As in `check_file`.
    """
    check_file(path)
    content = text.encode("utf-8")
    if _is_standard_output(path):
        sys.stdout.flush()  # print what is buffered first
        with open(1, "wb", closefd=False) as stream:
            stream.write(content)
    elif _is_special(path):
        Path(path).write_bytes(content)
    else:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise InvalidInputError unless this path can be written to: a file, or an existing device or pipe."""
    if not os.fspath(path):
        raise InvalidInputError("the file's name is empty", argument="path", advice="pass a file")
    if Path(path).is_dir():
        raise InvalidInputError(f"{path} is a folder", argument="path", advice="pass a file")
    if _is_standard_output(path):
        return
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise InvalidInputError(f"{path} can't be written to", argument="path", advice="choose another file")
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise InvalidInputError(f"{path} is a link to itself", argument="path", advice="choose another file")
    check_folder(target.parent)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise InvalidInputError unless files can be written to this folder, which may not exist yet."""
    if not os.fspath(folder):
        raise InvalidInputError("the folder's name is empty", argument="folder", advice="pass a folder")
    path = Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise InvalidInputError(f"{existing} is a file", argument="folder", advice="pass a folder")
    if not os.access(existing, os.W_OK):
        raise InvalidInputError(f"{existing} can't be written to", argument="folder", advice="choose another folder")


def _is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether standard output is redirected to this file; replacing it would lose what is printed."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:  # no such file, or standard output is closed
        return False


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether this is a device, a pipe or a socket, which must not be replaced by a file."""
    return Path(path).exists() and not Path(path).is_file()
