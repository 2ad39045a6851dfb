"""README and docs: every Python block runs as written, and every command, link, message and model they name exists.

A page's blocks run in order in one program and one empty folder, as a reader would type them, with tiny checkpoints in
the hub's cache. A block that can't run says so in a comment before it: `<!-- not run: needs a Qdrant server -->`.
The blocks of docs/moving.md run in pairs, in test_moving.py.
"""

import ast
import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import TESTS

import bge_integrations
from bge_integrations import catalog, errors

PROJECT = TESTS.parent
PACKAGE = Path(bge_integrations.__file__).parent
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
RUN_PAGE = """
import json, sys

page, blocks = sys.argv[1], json.loads(sys.argv[2])
names = {"__name__": "__main__"}
for line, code in blocks:
    exec(compile("\\n" * line + code, page, "exec"), names)  # a traceback names the line of the page
"""


class Block(NamedTuple):
    """A fenced block: its language, its code, the line of its fence, and why it is not run (None if it is)."""

    language: str
    code: str
    line: int
    not_run: str | None


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    pattern = r"(?:^<!-- not run: ([^\n]+) -->\n+)?^```(\w*)[^\n]*\n(.*?)^```$"
    return [
        Block(found[2], found[3], text[: found.start(3)].count("\n"), found[1])
        for found in re.finditer(pattern, text, re.M | re.S)
    ]


BLOCKS = {page: read_blocks(page) for page in PAGES}
PYTHON = {page: [block for block in blocks if block.language == "python"] for page, blocks in BLOCKS.items()}
RUN_HERE = [page for page, blocks in PYTHON.items() if blocks and page.name != "moving.md"]
NOT_RUN = [(page, block) for page, blocks in PYTHON.items() for block in blocks if block.not_run]


def by_name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", RUN_HERE, ids=by_name)
def test_page(page, run_forked):
    blocks = [(block.line, block.code) for block in PYTHON[page] if block.not_run is None]
    run_forked(RUN_PAGE, page.name, json.dumps(blocks))


@pytest.mark.parametrize(("page", "block"), NOT_RUN, ids=lambda given: getattr(given, "name", ""))
def test_block_that_is_not_run_can_be_parsed(page, block):
    ast.parse(block.code)
    pytest.skip(f"{page.name}:{block.line}: {block.not_run}")


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_comment_that_a_block_is_not_run_stands_before_a_block(page):
    comments = re.findall("^<!-- not run", page.read_text("utf-8"), re.M)
    assert len(comments) == sum(block.not_run is not None for block in PYTHON[page])


def commands(page: Path) -> str:
    """Return the page's code that is not Python: blocks and inline spans."""
    text = page.read_text("utf-8")
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    found = [block.code for block in BLOCKS[page] if block.language != "python"] + [" ".join(s.split()) for s in spans]
    return "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_commands_exist(page):
    code = commands(page)
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"^make ([a-z][a-z-]*)", code, re.M)) <= set(targets)
    for module in re.findall(r"^python -m ([\w.]+)", code, re.M):
        spec = importlib.util.find_spec(module)
        assert spec, module
        assert not spec.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__"), module
    for script in re.findall(r"\b((?:scripts|benchmarks)/\w+\.py)", code):
        assert (PROJECT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_between_pages_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readme_begins_with_the_two_commands():
    found = [block.code.strip() for block in BLOCKS[PROJECT / "README.md"] if block.language != "python"]
    assert found[:2] == ["make demo", "make test"]


def test_the_model_guide_names_every_checkpoint():
    guide = (PROJECT / "docs" / "models.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in guide.splitlines() if line.startswith("| ")]
    named = {name.strip() for row in rows for name in row.replace("`", "").split(",")}
    assert {row.name.removeprefix("BAAI/") for row in catalog.CHECKPOINTS} <= named


TROUBLES = (PROJECT / "docs" / "troubleshooting.md").read_text("utf-8")


def test_troubleshooting_has_a_section_for_every_error_and_warning():
    classes = inspect.getmembers(
        errors, lambda member: isinstance(member, type) and member.__module__ == errors.__name__
    )
    assert classes
    assert not [name for name, _ in classes if f"\n### `{name}`\n" not in TROUBLES]


def test_troubleshooting_quotes_messages_as_they_are():
    """Quoted messages are the code in a table's first column, with … for the parts that vary."""
    known = [text for file in PACKAGE.rglob("*.py") for text in templates(ast.parse(file.read_text("utf-8")))]
    quoted = re.findall(r"^\| `([^`]+)` \|", TROUBLES, re.M)
    assert len(quoted) > 20
    unknown = [message for message in quoted if not any(is_part(message, text) for text in known)]
    assert not unknown


def templates(tree: ast.AST) -> list[str]:
    """Return all string literals of a module, with … for the values that f-strings insert."""
    return [
        "".join(part.value if isinstance(part, ast.Constant) else "…" for part in getattr(node, "values", [node]))
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]


def is_part(message: str, template: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in message.split("…"))
    return re.search(pattern, template, re.S) is not None
