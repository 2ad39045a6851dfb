"""Read lines of text or JSON from a file or standard input; errors name the line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_text


def name_of(file: str) -> str:
    return "standard input" if file == "-" else file


def read_lines(file: str) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and text of each line that is not blank; "-" is standard input.

    Raises:
        InvalidInputError: A line is not UTF-8, or all lines are blank.
    """
    if file == "-" and sys.stdin is None:
        raise InvalidInputError("standard input is closed", advice="pass a file")
    empty = True
    with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise InvalidInputError(f"{name_of(file)}, line {number} is not UTF-8 ({error.reason})") from error
            if text:
                empty = False
                yield number, text
    if empty:
        raise InvalidInputError(f"{name_of(file)} is empty")


def read_rows(file: str, field: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file, each with a text in `field`.

    Raises:
        InvalidInputError: A line is not such an object.
    """
    for number, line in read_lines(file):
        yield parse_row(line, field, f"{name_of(file)}, line {number}")


def read_objects(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number (from 1) and the object of each line of a JSONL file.

    Raises:
        InvalidInputError: A line is not an object.
    """
    for number, line in read_lines(file):
        yield number, parse_object(line, f"{name_of(file)}, line {number}")


def parse_row(line: str | bytes, field: str, line_name: str) -> dict[str, Any]:
    """Return the object in a line of JSON, which has a text in `field`.

    Raises:
        InvalidInputError: It is not such an object; the message starts with `line_name`.
    """
    row = parse_object(line, line_name)
    if not isinstance(row.get(field), str):
        raise InvalidInputError(f"{line_name} has no text in {field!r}, only {', '.join(map(repr, row)) or 'nothing'}")
    return row


def parse_object(line: str | bytes, line_name: str) -> dict[str, Any]:
    """Return the object in a line of JSON.

    Raises:
        InvalidInputError: It is not an object; the message starts with `line_name`.
    """
    try:
        row = json.loads(line)
        whole = json.dumps(row, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{line_name} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise InvalidInputError(f"{line_name} is not a JSON object")
    check_text(whole, line_name)  # all columns are written, and a lone surrogate can't be
    return row
