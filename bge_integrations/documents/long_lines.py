"""Split texts with very long lines in linear time.

The splitter looks at the rest of a line for each passage. A line of 200 000 characters would take half a minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

#: Lines up to this many characters are split as they are.
_LONGEST_LINE = 4096
#: Characters of a window per token of a passage.
_WINDOW_PER_TOKEN = 16


def chunk_indices(splitter: Any, text: str, tokens: int) -> Iterator[tuple[int, str]]:
    """Yield the splitter's passages of a text, with their character offsets.

    Args:
        splitter: A splitter of `semantic_text_splitter`.
        text: The text.
        tokens: Maximum tokens per passage.
    """
    window = max(_LONGEST_LINE, _WINDOW_PER_TOKEN * tokens)
    start = 0
    for line in re.finditer(rf"[^\n]{{{window + 1},}}", text):
        yield from _shifted(splitter, text[start : line.start()], start)
        yield from _split_line(splitter, text, line.start(), line.end(), window)
        start = line.end()
    yield from _shifted(splitter, text[start:], start)


def _split_line(splitter: Any, text: str, start: int, end: int, window: int) -> Iterator[tuple[int, str]]:
    """Split a line window by window.

    The passages near the end of a window may depend on what follows, so the next window starts at the last passage that
    does not.
    """
    length = window
    while start + length < end:
        passages = list(_shifted(splitter, text[start : start + length], start))
        sure = [i for i, (at, chunk) in enumerate(passages) if at + 2 * len(chunk) <= start + length]
        if sure and sure[-1] > 0:
            yield from passages[: sure[-1]]
            start = passages[sure[-1]][0]
            length = window
        else:  # passages of more characters than usual, such as spaces
            length *= 2
    yield from _shifted(splitter, text[start:end], start)


def _shifted(splitter: Any, text: str, start: int) -> Iterator[tuple[int, str]]:
    return ((start + at, chunk) for at, chunk in splitter.chunk_indices(text))
