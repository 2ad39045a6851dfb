"""Find the blocks of a text: headings, paragraphs, lists, tables and code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

from bge_integrations.optional import import_library

#: How a text is written: in paragraphs, as Markdown, as source code, or as rows that each fill a line.
Layout = Literal["text", "markdown", "code", "rows"]
#: Blocks that are kept whole if they fit are "table" and "code"; the others are divided anywhere.
BlockKind = Literal["heading", "paragraph", "list", "table", "code"]

#: The level of a block's beginning. Headings have 1 to 6.
BLOCK = 7
_PARAGRAPH = re.compile(r"\S.*?(?=\n[^\S\n]*\n|\Z)", re.DOTALL)
_LINE = re.compile(r"[^\n]*\S[^\n]*")
_KINDS: dict[str, BlockKind] = {
    "heading_open": "heading",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
    "fence": "code",
    "code_block": "code",
}
#: The kinds of the blocks of other layouts than Markdown and text.
_WHOLE_KINDS: dict[Layout, BlockKind] = {"code": "code", "rows": "table"}
#: The nesting of a list's items and of a table's rows among the parser's tokens.
_PART_LEVELS: dict[str, int] = {"list": 1, "table": 2}


@dataclass(frozen=True)
class Block:
    """A block of a text.

    Attributes:
        start, end: Where it is in the text.
        kind: What it is.
        level: 1 to 6 for a heading, otherwise 7.
        title: The words of a heading.
        parts: Where the items of a list, or the rows of a table after its header, begin.
    """

    start: int
    end: int
    kind: BlockKind
    level: int = BLOCK
    title: str = ""
    parts: Sequence[int] = ()


@lru_cache(maxsize=1)  # the title of Markdown and its passages come from the same blocks
def blocks_of(text: str, layout: Layout) -> Sequence[Block]:
    """Return the blocks of a text in order. Between them are only spaces and line ends."""
    if layout == "markdown":
        return tuple(_markdown_blocks(text))
    pattern = _LINE if layout == "rows" else _PARAGRAPH
    kind = _WHOLE_KINDS.get(layout, "paragraph")
    found = [(match.start(), match.start() + len(match[0].rstrip())) for match in pattern.finditer(text)]
    if layout == "code":
        found = _outermost(text, found)
    return tuple(Block(start, end, kind) for start, end in found)


def _outermost(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join the parts of code that blank lines separate if the second one is indented, as within a function."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        is_indented = text[text.rfind("\n", 0, start) + 1 : start + 1].startswith((" ", "\t"))
        if joined and (is_indented or text[start] in ")]}"):
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def front_matter_of(text: str) -> tuple[str, int]:
    """Return the front matter that Markdown begins with, and the length of the text up to its end; ("", 0) if none."""
    tokens = _front_matter_parser().parse(text) if text.startswith("---") else []
    if not tokens or tokens[0].type != "front_matter":
        return "", 0
    return tokens[0].content, _line_starts(text)[tokens[0].map[1]]


@cache
def _front_matter_parser() -> Any:
    plugin = import_library("mdit_py_plugins.front_matter", "files", "reading Markdown")
    return _parser("zero").use(plugin.front_matter_plugin)


@cache
def _block_parser() -> Any:
    return _parser("commonmark").enable("table")


def _parser(preset: str) -> Any:
    """Return a parser that finds blocks and leaves what is inside them alone."""
    parser = import_library("markdown_it", "files", "reading Markdown").MarkdownIt(preset)
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer(r"\r\n?|\n", text)), len(text)]


def _markdown_blocks(text: str) -> Iterator[Block]:
    tokens = _block_parser().parse(text)
    lines = _line_starts(text)
    starts = [i for i, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0 and token.map]
    for number, i in enumerate(starts):
        following = starts[number + 1] if number + 1 < len(starts) else len(tokens)
        token = tokens[i]
        start = lines[token.map[0]] if number else 0
        end = lines[tokens[following].map[0]] if following < len(tokens) else len(text)
        kind = _KINDS.get(token.type, "paragraph")
        if not (content := text[start:end].strip()):
            continue
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(content)
        if kind == "heading":
            heading = start + len(text[start : lines[token.map[1]]].rstrip())
            yield Block(start, heading, kind, int(token.tag[1]), tokens[i + 1].content)
            if rest := text[heading:end].lstrip():  # such as link definitions, which are not blocks
                yield Block(end - len(rest), end, "paragraph")
        else:
            level = _PART_LEVELS.get(kind)
            inside = [part.map[0] for part in tokens[i + 1 : following] if part.level == level and part.nesting > 0]
            yield Block(start, end, kind, parts=[lines[line] for line in inside if lines[line] > start])
