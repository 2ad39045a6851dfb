"""Results on disk: a place is checked before there is anything to write, and a file is written whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from bge_integrations.errors import InvalidInputError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text beside the file and move it into place; folders are made where there are none.

    A link is followed. A device, a pipe or standard output, whatever that is, is written to as it stands.

    Raises:
        InvalidInputError: As in `check_file`.
    """
    check_file(path)
    if _is_standard_output(path):
        sys.stdout.flush()  # what was printed comes first
        with open(1, "w", encoding="utf-8", newline="\n", closefd=False) as stream:
            stream.write(text)
        return
    if _is_special(path):
        with open(path, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.chmod(name, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise InvalidInputError unless a file, or the device or pipe that is there, can be written to."""
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
    """Raise InvalidInputError unless files can be written into this folder, which may have to be made."""
    if not os.fspath(folder):
        raise InvalidInputError("the folder's name is empty; name a folder")
    place = Path(folder).absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        raise InvalidInputError(f"{there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise InvalidInputError(f"{there} can't be written to; name another folder")


def _is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Also where it was sent to a file, which must not be replaced while it is written to."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:  # there is no such file, or no standard output
        return False


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether this is a device, a pipe or a socket, into which a file can't be moved."""
    return Path(path).exists() and not Path(path).is_file()


def _umask() -> int:
    """The process's mask of permissions, which can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
