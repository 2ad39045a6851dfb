"""Every Python block of the README and the docs runs as written, with tiny checkpoints in the hub's cache.

The blocks of docs/moving.md run in pairs, in test_moving.py.
"""

import re

import pytest
from conftest import TESTS

PROJECT = TESTS.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def blocks():
    for file in PAGES:
        if file.name == "moving.md":
            continue
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", file.read_text("utf-8"), re.M | re.S)):
            yield pytest.param(code, id=f"{file.name}-{i}")


@pytest.mark.parametrize("code", list(blocks()))
def test_block(code, run_as_user):
    run_as_user(code)


def test_the_readme_begins_with_the_two_commands():
    commands = re.findall(r"^```\n(.*?)\n```", (PROJECT / "README.md").read_text("utf-8"), re.M | re.S)
    assert commands[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
