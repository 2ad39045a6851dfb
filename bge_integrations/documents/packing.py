"""Put pieces of a text together to passages that are neither too long nor too short."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from bge_integrations.documents.blocks import BLOCK, Layout
from bge_integrations.documents.pieces import Piece, PieceDivider

#: Characters of text per token that are looked at to repeat the last words of a passage.
_CHARACTERS_PER_TOKEN = 16
_WORD = re.compile(r"(?<=\s)\S")


@dataclass(frozen=True)
class Packed:
    """A passage of a text.

    Attributes:
        start: Character offset of the passage in the text, without the context that it begins with.
        text: The context and the passage.
        section: The titles of the headings that it is under, joined by " > "; "" if there are none.
    """

    start: int
    text: str
    section: str


class Packer:
    """Splits texts into passages.

    Args:
        count: Returns the number of tokens of each text.
        room: Maximum tokens of a passage.
        least: Tokens that a passage has at least, if the text allows it.
        overlap: Maximum tokens that a passage repeats from the previous one in the same section.
    """

    def __init__(self, count: Callable[[Sequence[str]], list[int]], room: int, least: int, overlap: int) -> None:
        self._count = count
        self._room = room
        self._least = least
        self._overlap = overlap
        self._divider = PieceDivider(count, room)

    def split(self, text: str, layout: Layout) -> Iterator[Packed]:
        """Yield the passages of a text in order."""
        whole = text.strip()
        if layout != "markdown" and len(whole.split()) <= self._room and self._fits(whole):
            yield Packed(text.index(whole), whole, "")
            return
        pieces = list(self._divider.pieces(text, layout))
        for first, last in self._balanced(pieces, self._ranges(pieces)):
            yield from self._passages(text, pieces, first, last)

    def _ranges(self, pieces: list[Piece]) -> Iterator[tuple[int, int]]:
        """Yield ranges of pieces that fit. A range that is long enough ends before a part that would have to be cut."""
        totals = [0, *accumulate(piece.tokens for piece in pieces)]
        ends = _ends_of_parts(pieces)
        first = 0
        while first < len(pieces):
            room = self._room - pieces[first].context.tokens
            room -= min(self._overlap if _can_overlap(pieces, first) else 0, room - pieces[first].tokens)
            last = first + 1
            while last < len(pieces) and totals[last + 1] - totals[first] <= room:
                is_enough = totals[last] - totals[first] >= self._least
                if is_enough and totals[ends[last]] - totals[first] > room:
                    break
                last += 1
            while last < len(pieces) and last > first + 1 and pieces[last - 1].is_heading:
                last -= 1
            yield first, last
            first = last

    def _balanced(self, pieces: list[Piece], ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Join ranges that are too short with the previous one, or move pieces from it."""
        totals = [0, *accumulate(piece.tokens for piece in pieces)]
        earlier: tuple[int, int] | None = None
        for first, last in ranges:
            if earlier and totals[last] - totals[first] < self._least:
                start = earlier[0]
                if totals[last] - totals[start] <= self._room - pieces[start].context.tokens:
                    earlier = (start, last)
                    continue
                first = self._better_start(pieces, totals, start, first, last)
                earlier = (start, first)
            if earlier:
                yield earlier
            earlier = (first, last)
        if earlier:
            yield earlier

    def _better_start(self, pieces: list[Piece], totals: list[int], start: int, first: int, last: int) -> int:
        """Return where the second of two passages begins, so that both are long enough; `first` if there is no way."""
        possible = [
            i
            for i in range(start + 1, first)
            if not pieces[i - 1].is_heading
            and totals[i] - totals[start] >= self._least
            and self._least <= totals[last] - totals[i] <= self._room - pieces[i].context.tokens
        ]
        return min(possible, key=lambda i: (pieces[i].level, -i), default=first)

    def _passages(self, text: str, pieces: list[Piece], first: int, last: int) -> Iterator[Packed]:
        """Yield the passage of a range; several if it is too long after all, because tokens cross its joints."""
        context = pieces[first].context
        section = next((p.context.section for p in pieces[first:last] if not p.is_heading), context.section)
        end = pieces[last - 1].end
        start = self._overlapped(text, pieces, first, last)
        for begin in dict.fromkeys((start, pieces[first].start)):
            passage = context.text + text[begin:end]
            if self._fits(passage):
                yield Packed(begin, passage, section)
                return
        if last - first > 1:
            yield from self._passages(text, pieces, first, last - 1)
            yield from self._passages(text, pieces, last - 1, last)
            return
        begin = pieces[first].start
        for at, part in self._divider.words(text[begin:end], self._room):
            yield Packed(begin + at, part, section)

    def _overlapped(self, text: str, pieces: list[Piece], first: int, last: int) -> int:
        """Return where a passage begins with its overlap: whole pieces before it, or else the last words."""
        start = pieces[first].start
        if not _can_overlap(pieces, first):
            return start
        used = sum(piece.tokens for piece in pieces[first:last])
        budget = min(self._overlap, self._room - pieces[first].context.tokens - used)
        i = first
        while _can_overlap(pieces, i) and pieces[i - 1].tokens <= budget:
            i -= 1
            budget -= pieces[i].tokens
        if i < first:
            return pieces[i].start
        words = self._last_words(text, pieces[first - 1], budget) if pieces[first - 1].is_prose else None
        return start if words is None else words

    def _last_words(self, text: str, piece: Piece, budget: int) -> int | None:
        """Return where the last words of a piece begin that have at most `budget` tokens; None if there are none."""
        start = max(piece.start, piece.end - _CHARACTERS_PER_TOKEN * max(0, budget))
        places = [match.start() for match in _WORD.finditer(text, start, piece.end)]
        if not places:  # no spaces
            places = list(range(start, piece.end))
        low, high = 0, len(places)
        while low < high:
            middle = (low + high) // 2
            if self._count([text[places[middle] : piece.end]])[0] <= budget:
                high = middle
            else:
                low = middle + 1
        return places[low] if low < len(places) else None

    def _fits(self, text: str) -> bool:
        return self._count([text])[0] <= self._room


def _can_overlap(pieces: list[Piece], i: int) -> bool:
    """Return whether a piece follows another one in the same section."""
    return i > 0 and pieces[i].level >= BLOCK and not pieces[i - 1].is_heading


def _ends_of_parts(pieces: list[Piece]) -> list[int]:
    """Return for each piece where the part that it begins ends: the next piece of the same or a stronger level."""
    ends = [len(pieces)] * len(pieces)
    open_parts: list[int] = []
    for i, piece in enumerate(pieces):
        while open_parts and pieces[open_parts[-1]].level >= piece.level:
            ends[open_parts.pop()] = i
        open_parts.append(i)
    return ends
