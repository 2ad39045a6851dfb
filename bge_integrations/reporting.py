"""Warnings about what a caller of this package should know."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Self

from bge_integrations.errors import TruncationWarning

#: Maximum number of truncated texts that a message names, and that a warning's attributes hold.
_NAMED, _KEPT = 5, 100


def warn_caller(message: str | Warning, category: type[Warning]) -> None:
    """Issue a warning for the line that called this package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "bge_integrations":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


#: The innermost `with` block that collects truncated texts.
_block: ContextVar[TruncatedTexts | None] = ContextVar("_block", default=None)


class TruncatedTexts:
    """The texts that a call truncated, or all calls in a `with` block, which encode the parts of one list.

    At the end of the block, one warning reports all of them.

    Args:
        first: The position of the first text.

    Attributes:
        ids: The ids of the next call's texts, if they have any; they are reported instead of their positions.
    """

    def __init__(self, first: int = 0) -> None:
        self.ids: Sequence[str] | None = None
        self._names: list[str] = []
        self._positions: list[int] = []
        self._count = self._longest = self._limit = 0
        self._first, self._total = first, 0
        self._outer: TruncatedTexts | None = None

    def __enter__(self) -> Self:
        self._outer = _block.get()
        _block.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _block.set(self._outer)  # not reset(), which fails if an abandoned coroutine ends in another context
        self.warn()

    def add(self, tokens: Mapping[int, int], total: int, limit: int) -> None:
        """Add a call.

        Args:
            tokens: {position of a truncated text: its number of tokens}.
            total: Number of texts of the call.
            limit: Maximum number of tokens.
        """
        for position in list(tokens)[: _KEPT - len(self._positions)]:
            self._positions.append(self._first + self._total + position)
            if self.ids is not None:
                self._names.append(self.ids[position])
        self._count += len(tokens)
        self._total += total
        self._longest = max(self._longest, *tokens.values(), 0)
        self._limit = limit if tokens else self._limit

    @property
    def finding(self) -> str:
        """How many texts were longer than allowed, the longest one, and which ones."""
        named = [repr(name) for name in self._names] or [str(position) for position in self._positions]
        which = ", ".join(named[:_NAMED]) + (", …" if self._count > _NAMED else "")
        kind = "ids" if self._names else "positions"
        return (
            f"{self._count} of {self._total} texts are longer than max_length={self._limit} (the longest has "
            f"{self._longest} tokens; {kind} {which})"
        )

    def warn(self) -> None:
        """Issue a TruncationWarning if texts were truncated."""
        if self._count:
            warning = TruncationWarning(
                f"{self.finding} and were truncated; split them, or raise max_length if the model allows it",
                count=self._count,
                total=self._total,
                longest=self._longest,
                limit=self._limit,
                positions=tuple(self._positions),
                ids=tuple(self._names),
            )
            warn_caller(warning, TruncationWarning)


def report_truncation(tokens: Mapping[int, int], total: int, limit: int) -> None:
    """Warn about the truncated texts of a call, at once or at the end of the block; see `TruncatedTexts.add`."""
    block = _block.get()
    report = TruncatedTexts() if block is None else block
    report.add(tokens, total, limit)
    if block is None:
        report.warn()
