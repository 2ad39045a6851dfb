"""Divide a text into pieces: headings, sentences, rows, whole tables and code. Passages are made of pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from bge_integrations.documents.blocks import BLOCK, Block, Layout, blocks_of
from bge_integrations.documents.long_lines import chunk_indices
from bge_integrations.documents.sentence_ends import sentences
from bge_integrations.optional import import_library

#: The levels of what is inside a block: an item, row or part of code; a sentence or line; words of a long one.
_ITEM, _SENTENCE, _WORDS = BLOCK + 1, BLOCK + 2, BLOCK + 3
#: Blocks that are divided into sentences.
_PROSE = ("paragraph", "list")
#: Tokens that the line ends after a heading may add.
_JOINT = 2
#: Blank lines in code, and line ends.
_GAP, _LINE_END = re.compile(r"\n(?:[^\S\n]*\n)+"), re.compile(r"\n")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Span:
    """A part of a text. The lower its level, the stronger the boundary before it; headings have 1 to 6."""

    start: int
    end: int
    level: int


@dataclass(frozen=True)
class Context:
    """What a passage that begins in the middle of a section repeats.

    Attributes:
        text: The headings above, and the header of a table.
        tokens: Its length.
        section: The titles of these headings, and of the heading itself, joined by " > ".
    """

    text: str = ""
    tokens: int = 0
    section: str = ""


@dataclass(frozen=True)
class Piece(Span):
    """A part of a text that is not divided further, with its length.

    Attributes:
        is_heading: It is a heading or the header of a table, and goes with the piece that follows.
        is_prose: It is not a heading, nor a part of a table or code.
    """

    tokens: int
    context: Context
    is_heading: bool = False
    is_prose: bool = False


class PieceDivider:
    """Divides texts into pieces that fit into a passage together with their context.

    Args:
        count: Returns the number of tokens of each text.
        room: Maximum tokens of a piece and its context.
    """

    def __init__(self, count: Callable[[Sequence[str]], list[int]], room: int) -> None:
        self._count = count
        self._room = room
        self._splitters: dict[int, Any] = {}  # by the limit

    def pieces(self, text: str, layout: Layout) -> Iterator[Piece]:
        """Yield the pieces of a text in order. Between them are only spaces and line ends."""
        blocks = blocks_of(text, layout)
        parts = [_parts(text, block) if block.kind in _PROSE else [_whole(block)] for block in blocks]
        lengths = self._with_lengths(text, [part for inside in parts for part in inside])  # one call is fastest
        path: list[tuple[Block, int]] = []  # the headings above, with their lengths
        for block, inside in zip(blocks, parts, strict=True):
            measured = list(islice(lengths, len(inside)))
            length = measured[0][1]
            if block.kind == "heading" and length + _JOINT <= self._room // 2:
                while path and path[-1][0].level >= block.level:
                    path.pop()
                path.append((block, length))
                above = self._context(text, path, without_last=True)
                yield Piece(block.start, block.end, block.level, length, above, is_heading=True)
            else:
                yield from self._content(text, block, measured, self._context(text, path))

    def words(self, text: str, limit: int) -> Iterator[tuple[int, str]]:
        """Yield parts of at most `limit` tokens with their offsets, divided between words if possible."""
        if limit not in self._splitters:
            library = import_library("semantic_text_splitter", "files", "reading files")
            self._splitters[limit] = library.TextSplitter.from_callback(lambda part: self._count([part])[0], limit, 0)
        return chunk_indices(self._splitters[limit], text, limit)

    def _context(self, text: str, path: list[tuple[Block, int]], without_last: bool = False) -> Context:
        """Return the innermost headings of a path, as many as take half of a passage at most.

        The context of a heading is without the heading itself, but leaves room for it.
        """
        room = self._room // 2
        repeated: list[tuple[Block, int]] = []
        for heading, length in reversed(path):
            room -= length + _JOINT
            if room < 0:
                break
            repeated.insert(0, (heading, length + _JOINT))
        if without_last:
            repeated.pop()
        return Context(
            "".join(text[heading.start : heading.end] + "\n\n" for heading, _ in repeated),
            sum(tokens for _, tokens in repeated),
            " > ".join(heading.title for heading, _ in path),
        )

    def _content(
        self, text: str, block: Block, measured: Sequence[tuple[Span, int]], context: Context
    ) -> Iterator[Piece]:
        """Yield the pieces of a block. `measured` are the sentences of prose, or otherwise the whole block."""
        if block.kind in ("table", "code") and measured[0][1] <= self._room - context.tokens:
            yield Piece(block.start, block.end, block.level, measured[0][1], context)
            return
        if block.kind not in _PROSE:
            measured = list(self._with_lengths(text, _parts(text, block)))
        repeated = context
        if block.kind == "table" and block.parts:
            repeated = self._with_header(text[block.start : block.parts[0]].rstrip() + "\n", context)
        fitting = self._fitting(text, measured, self._room - repeated.tokens)
        for number, (span, tokens) in enumerate(fitting):
            is_header = repeated is not context and span.start < block.parts[0]
            yield Piece(
                span.start,
                span.end,
                span.level,
                tokens,
                context if number == 0 else repeated,
                is_heading=is_header,
                is_prose=block.kind in _PROSE,
            )

    def _with_header(self, header: str, context: Context) -> Context:
        """Add a table's header, unless it takes more than half of what is left."""
        tokens = self._count([header])[0] + _JOINT
        if tokens > (self._room - context.tokens) // 2:
            return context
        return Context(context.text + header, context.tokens + tokens, context.section)

    def _fitting(self, text: str, measured: Sequence[tuple[Span, int]], limit: int) -> Iterator[tuple[Span, int]]:
        """Yield spans with their lengths. What is too long is divided at spaces, and long words anywhere."""
        for span, tokens in measured:
            if tokens <= limit:
                yield span, tokens
                continue
            words = [Span(word.start(), word.end(), _WORDS) for word in _WORD.finditer(text, span.start, span.end)]
            words[0] = replace(words[0], level=span.level)
            for word, length in self._with_lengths(text, words):
                if length <= limit:
                    yield word, length
                    continue
                for number, (at, part) in enumerate(self.words(text[word.start : word.end], limit)):
                    start = word.start + at
                    level = _WORDS if number else word.level
                    yield Span(start, start + len(part), level), self._count([part])[0]

    def _with_lengths(self, text: str, spans: list[Span]) -> Iterator[tuple[Span, int]]:
        counts = self._count([text[span.start : span.end] for span in spans])
        return zip(spans, counts, strict=True)


def _whole(block: Block) -> Span:
    return Span(block.start, block.end, block.level)


def _parts(text: str, block: Block) -> list[Span]:
    """Return the sentences of a paragraph or list, the rows of a table, or the lines of code."""
    if block.kind == "code":
        gaps = {match.end() for match in _GAP.finditer(text, block.start, block.end)}
        lines = [match.end() for match in _LINE_END.finditer(text, block.start, block.end)]
        return _spans(text, block, [(line, _ITEM if line in gaps else _SENTENCE) for line in lines])
    items = _spans(text, block, [(part, _ITEM) for part in block.parts])
    if block.kind == "table":
        return items
    starts = ([(at, _SENTENCE) for at in _sentence_starts(text, item)] for item in items)
    return [span for item, inside in zip(items, starts, strict=True) for span in _spans(text, item, inside)]


def _spans(text: str, whole: Block | Span, starts: list[tuple[int, int]]) -> list[Span]:
    """Divide a span at these places, each with the level of its boundary, and leave out blank parts."""
    bounds = [(whole.start, whole.level), *starts, (whole.end, 0)]
    spans = []
    for (start, level), (end, _) in pairwise(bounds):
        part = text[start:end]
        if content := part.strip():
            start += len(part) - len(part.lstrip())
            spans.append(Span(start, start + len(content), level))
    return spans


def _sentence_starts(text: str, span: Span) -> Iterator[int]:
    """Yield where the sentences after the first one begin. Line ends within a paragraph do not end a sentence."""
    flat = text[span.start : span.end].replace("\n", " ")
    at = 0
    for sentence in sentences(flat):
        at = flat.index(sentence, at)
        if at:
            yield span.start + at
        at += len(sentence)
