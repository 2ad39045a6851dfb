"""Read JSON as lines of "path: value", and JSON Lines as one record after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bge_integrations.documents.content import Content, Part, read_bytes, reading_as, whole_characters
from bge_integrations.documents.encodings import decode

#: Maximum characters of a path. Of longer ones the end is kept.
_MOST_PATH = 200


def read_json(file: Path) -> Content:
    """Read a JSON file, which may also be JSON Lines. Blank lines separate the objects of a list."""
    text = decode(read_bytes(file), file)
    with reading_as("JSON", file):
        try:
            return Content([Part(_text_of(json.loads(text)))])
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
    return _records(text, file)


def read_json_lines(file: Path) -> Content:
    """Read a file with a JSON value on each line. Each one begins a passage."""
    return _records(decode(read_bytes(file), file), file)


def _records(text: str, file: Path) -> Content:
    parts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            with reading_as(f"JSON in line {number}", file):
                parts.append(Part(_text_of(json.loads(line))))
    return Content(parts)


def _text_of(value: object) -> str:
    return whole_characters("\n".join(_lines("", value)).strip())


def _lines(path: str, value: object) -> Iterator[str]:
    """Yield "path: value" lines for the values in a JSON value; numbers and words of a list share a line."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(f"{path}.{key}"[-_MOST_PATH:] if path else key[-_MOST_PATH:], inner)
    elif isinstance(value, list):
        plain = [_shown(inner) for inner in value if not isinstance(inner, dict | list) and inner not in (None, "")]
        if plain:
            yield _line(path, ", ".join(plain))
        for inner in value:
            if isinstance(inner, dict | list):
                yield ""
                yield from _lines(path, inner)
    elif value not in (None, ""):
        yield _line(path, _shown(value))


def _line(path: str, value: str) -> str:
    return f"{path}: {value}" if path else value


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
