"""Options that the benchmarks share; they are checked before anything is measured."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path


def positive(text: str) -> int:
    """Parse a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def add_results(parser: ArgumentParser, default: Path, otherwise: str = "") -> None:
    """Add `--results`, the file to write the results to; its folder must exist."""
    where = f"default: benchmarks/{default.name}{otherwise}"
    parser.add_argument("--results", type=_file, default=default.resolve(), help=where)


def _file(text: str) -> Path:
    path = Path(text).resolve()
    if path.is_dir() or not path.parent.is_dir():
        raise ArgumentTypeError(f"{text!r} is not a file in an existing folder")
    return path
