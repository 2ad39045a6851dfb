"""Where results are written: checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled


def check_new_file(output: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the absolute path of a file that can be written.

    Raises:
        InvalidInputError: It is a folder, its folder does not exist, or it exists and `overwrite` is False.
    """
    path = Path(os.path.abspath(os.path.expanduser(output)))
    if not os.fspath(output) or path.is_dir():
        raise InvalidInputError(f"{os.fspath(output)!r} is not a file", argument="output", advice="pass a file")
    if not path.parent.is_dir():
        raise InvalidInputError(f"the folder {path.parent} does not exist", argument="output", advice="create it first")
    if path.exists() and not overwrite:
        raise InvalidInputError(
            f"{output} exists already",
            argument="output",
            advice=f"choose another file, or replace it with {spelled('overwrite', True)}",
        )
    return path


def check_new_folder(output: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder that can be created.

    Raises:
        InvalidInputError: It exists and is not empty.
    """
    path = Path(os.path.abspath(os.path.expanduser(output)))
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if not os.fspath(output) or (path.exists() and not is_empty_folder):
        raise InvalidInputError(
            f"{os.fspath(output)} exists already", argument="output", advice="choose another folder, or remove it"
        )
    return path
