"""Read Markdown: the title and the front matter, which is not text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from bge_integrations.documents.blocks import blocks_of, front_matter_of
from bge_integrations.documents.content import Content, Part, Property, read_bytes, whole_characters
from bge_integrations.documents.data_uris import without_data_uris
from bge_integrations.documents.encodings import decode
from bge_integrations.optional import import_library

#: Larger numbers are kept as text.
_MOST_NUMBER = 2**53


def read_markdown(file: Path) -> Content:
    """Read a Markdown file. `data:` URIs are left out."""
    text = decode(read_bytes(file), file)
    properties: dict[str, Property] = {}
    front_matter, length = front_matter_of(text)
    if front_matter and (loaded := _mapping(front_matter)) is not None:
        properties = {
            whole_characters(str(key)): plain for key, value in loaded.items() if (plain := _plain(value)) is not None
        }
        text = text[length:]
    text = without_data_uris(text)
    title = str(properties.pop("title", ""))
    if not title:
        title = next((block.title for block in blocks_of(text, "markdown") if block.level == 1), "")
    return Content([Part(text)], title.strip(), "markdown", properties)


def _mapping(front_matter: str) -> Mapping[object, object] | None:
    """Return the front matter if it is a mapping in YAML. Otherwise it is text between two rules."""
    if "<<" in front_matter and "&" in front_matter:
        return None  # repeated merges of mappings can take for ever
    library = import_library("yaml", "files", "reading Markdown")
    try:
        loaded = library.safe_load(front_matter)
    except (library.YAMLError, ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _plain(value: object) -> Property | None:
    """Return a value that every store takes as metadata: words, a number, or a date or list as text."""
    if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < _MOST_NUMBER):
        return value
    if isinstance(value, str | int | float | date):
        return whole_characters(str(value))
    if isinstance(value, list) and all(isinstance(item, str | int | float | date) for item in value):
        return whole_characters(", ".join(map(str, value)))
    return None
