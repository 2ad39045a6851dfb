"""How messages write arguments: `drop_last=False` in Python, `--set drop_last=False` in a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Takes an argument's name and a value, or ... for the name alone.
Spelling = Callable[[str, object], str]
_spelling: ContextVar[Spelling | None] = ContextVar("_spelling", default=None)


def spelled(argument: str, value: object = ...) -> str:
    """Return an argument with its value, or its name alone, as the caller writes it."""
    spelling = _spelling.get()
    if spelling is not None:
        return spelling(argument, value)
    return argument if value is ... else f"{argument}={value!r}"


def passed(argument: str) -> str:
    """Return an argument as the caller passes it: `k=` in Python, `--top-n` in a command."""
    spelling = _spelling.get()
    return f"{argument}=" if spelling is None else spelling(argument, ...)


@contextmanager
def spelling_of(spelling: Spelling) -> Iterator[None]:
    """Let the messages of errors and warnings that are made in the block write arguments in this way."""
    token = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(token)
