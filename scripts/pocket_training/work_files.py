"""Intermediate files of a training, saved so that a run that is killed at any moment can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def made_once(file: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Return the file, and write it first if it does not exist; it gets its name only when it is complete."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            write(out)
        partial.replace(file)
    return file
