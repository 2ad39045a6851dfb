"""The bundled documents and questions, for trying things out; where they come from: SOURCES.md."""

from __future__ import annotations

import json
from importlib import resources

from bge_integrations.documents import Passage


def bundled_passages() -> list[Passage]:
    """The bundled documents, a passage each."""
    return [
        Passage(f"{row['title']}\n{row['text']}", f"{row['source']}, {row['id']}", row["title"], None, 0)
        for row in _rows("passages.jsonl")
    ]


def bundled_questions() -> list[str]:
    """Questions that the bundled documents answer."""
    return [row["question"] for row in _rows("questions.jsonl")]


def _rows(file: str) -> list[dict[str, str]]:
    lines = resources.files(__name__).joinpath(file).read_text("utf-8")
    return [json.loads(line) for line in lines.splitlines()]
