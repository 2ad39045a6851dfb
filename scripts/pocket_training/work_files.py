"""What a training has worked out so far, kept so that a run killed at any moment can go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def made_once(file: Path, write: Callable[[BinaryIO], object]) -> Path:
    """The file; where it isn't there yet it is written first, and takes its name only when it is whole."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            write(out)
        partial.replace(file)
    return file
