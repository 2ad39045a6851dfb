"""Read rows from FlagEmbedding's JSONL, and write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bge_integrations.atomic_files import atomic_writer
from bge_integrations.errors import InvalidInputError
from bge_integrations.training.row_checks import RowCollector
from bge_integrations.training.rows import LAYOUT_ADVICE, Location, TrainingData, TrainingRow, TrainingRows

#: Suffixes of the files that are read.
_SUFFIXES = (".json", ".jsonl")


def read_rows(source: TrainingData) -> TrainingRows:
    """Read and check training data; all mistakes are reported together.

    Args:
        source: A .json or .jsonl file with one object a line, a folder of such files (not deeper), several files and
            folders, or a sequence of `TrainingRow`. A field that is null counts as missing; fields that `TrainingRow`
            does not have are ignored with a warning.

    Raises:
        TrainingDataError: Lines are not UTF-8 or not JSON, a list is missing, empty or a string, scores have the wrong
            number or are not finite, a text is blank, or `type` is unknown. It names each file and line.
        InvalidInputError: There is no such file, a folder has no file to read, or there is no row.
    """
    if isinstance(source, TrainingRows):
        return source
    collector = RowCollector()
    if isinstance(source, (str, os.PathLike)):
        source = [os.fspath(source)]
    if not isinstance(source, Sequence):
        raise InvalidInputError(
            f"data must be a path, a list of paths or a list of TrainingRow, got {type(source).__name__}",
            argument="data",
        )
    made = [each for each in source if isinstance(each, TrainingRow)]
    if len(made) == len(source):
        for position, row in enumerate(made):
            collector.add(vars(row), Location(None, position))
    else:
        for file in find_files(source, _SUFFIXES):
            for line, fields in json_rows(file, collector):
                collector.add(fields, Location(file, line))
    return collector.finish()


def write_rows(rows: Iterable[TrainingRow], file: str | os.PathLike[str]) -> None:
    """Write rows in FlagEmbedding's JSONL; the file is replaced when all are written."""
    with atomic_writer(Path(file)) as opened:
        for row in rows:
            fields = {name: value for name, value in vars(row).items() if value is not None}
            opened.write((json.dumps(fields, ensure_ascii=False) + "\n").encode())


def find_files(paths: Sequence[object], suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files that these paths name, with a folder's own files sorted by name.

    Raises:
        InvalidInputError: A path does not exist, has another suffix, or is a folder without such a file.
    """
    wanted = " or ".join(suffixes)
    files: list[Path] = []
    for given in paths:
        if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
            raise InvalidInputError(f"data has {given!r}, which is not a path", argument="data")
        path = Path(given)
        if path.is_dir():
            found = sorted(each for each in path.iterdir() if each.suffix in suffixes and each.is_file())
            if not found:
                raise InvalidInputError(f"the folder {path} has no {wanted} file", argument="data")
            files += found
        elif not path.is_file():
            raise InvalidInputError(f"{path} does not exist", argument="data", advice="check the path")
        elif path.suffix not in suffixes:
            raise InvalidInputError(f"{path} is not a {wanted} file", argument="data", advice=LAYOUT_ADVICE)
        else:
            files.append(path)
    return files


def json_rows(file: Path, collector: RowCollector) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and object of each line that is not blank; report lines that are no object, and empty files."""
    is_empty = True
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            location = Location(file, number)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                collector.reject(location, None, f"it is not UTF-8 ({error.reason} at byte {error.start + 1})")
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    return  # UTF-16: all lines would be reported
                is_empty = False
                continue
            if not text:
                continue
            is_empty = False
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                collector.reject(location, None, f"it is not JSON ({error})")
                if number == 1 and text.startswith("["):
                    return  # an array over several lines: all lines would be reported
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                collector.reject(location, None, f"it is a JSON {type(row).__name__}, not an object")
    if is_empty:
        collector.reject(Location(file, 0), None, "it is empty")
