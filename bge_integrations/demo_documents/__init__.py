"""Bundled documents and questions for the demo; SOURCES.md lists their sources."""

from __future__ import annotations

import json
from importlib import resources

from bge_integrations.documents import Passage


def bundled_passages() -> list[Passage]:
    """Return the bundled documents as one passage each."""
    return [
        Passage(f"{row['title']}\n{row['text']}", f"{row['source']}, {row['id']}", row["title"], None, 0)
        for row in _rows("passages.jsonl")
    ]


def bundled_questions() -> list[str]:
    """Return questions that the bundled documents answer."""
    return [row["question"] for row in _rows("questions.jsonl")]


def _rows(file: str) -> list[dict[str, str]]:
    lines = resources.files(__name__).joinpath(file).read_text("utf-8")
    return [json.loads(line) for line in lines.splitlines()]
