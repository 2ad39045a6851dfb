"""Markdown's front matter, titles and code are what they are in Markdown."""

import pytest

from bge_integrations.documents import read_passages
from bge_integrations.documents.folder import follow_folder
from bge_integrations.documents.reading import read_content
from bge_integrations.index import M3Index

FRONT = """---
title: Bears
author: Ann
date: 2020-01-02
tags: [a, 熊]
n: 3
big: .inf
nested: {a: 1}
source: x
---
"""


def content(tmp_path, text):
    (tmp_path / "a.md").write_text(text, "utf-8")
    return read_content(tmp_path / "a.md")


def test_front_matter_is_metadata(tmp_path, pocket):
    folder = tmp_path / "docs"
    folder.mkdir()
    assert content(folder, f"{FRONT}\n# Other\n\nBears eat honey.\n").parts[0].text == "\n# Other\n\nBears eat honey.\n"
    (passage,) = read_passages(folder, pocket)
    assert passage.metadata == {
        "author": "Ann", "date": "2020-01-02", "tags": "a, 熊", "n": 3, "big": "inf",
        "source": "a.md", "title": "Bears", "start": 1, "section": "Other",
    }  # fmt: skip
    with M3Index.open(tmp_path / "index", pocket) as index:
        follow_folder(index, folder)
        assert index.count({"tags": "a, 熊", "n": 3}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "---\nJust a line between rules.\n---\n\nText.",
        "---\n- a\n- list\n---\n\nText.",
        "---\nbroken: [\n---\n\nText.",
        "---\nnever: closed\n\nText.",
        "\n---\nlate: 1\n---\n\nText.",
        "---\na: &a {b: 1}\nc: {<<: [*a, *a]}\n---\n\nText.",
    ],
)
def test_what_is_not_front_matter_stays(tmp_path, text):
    assert content(tmp_path, text).parts[0].text == text


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Bears\n=====\n\nText.", "Bears"),
        ("```sh\n# a comment\n```\n\n# Bears\n", "Bears"),
        ("    # code\n\n# Bears #\n", "Bears"),
        ("~~~\n# x\n~~~\n\n## Second\n", "a"),
        ("#hashtag\n\n# 熊\n", "熊"),
        ("<!--\n# hidden\n-->\n\n# Bears\n", "Bears"),
        ("> # Quoted\n\n# Bears", "Bears"),
    ],
)
def test_titles(tmp_path, text, title):
    assert content(tmp_path, text).title == title


def test_headings_in_code_begin_no_section(tmp_path, pocket):
    content(tmp_path, "# Bears\n\n```\n# not a section\n```\n\n" + "Bears eat honey. " * 200)
    assert {passage.section for passage in read_passages(tmp_path, pocket)} == {"Bears"}
