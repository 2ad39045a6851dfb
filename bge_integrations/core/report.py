"""What the calls in a block of code did: tokens, truncated inputs and times. The server reports them per request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class CallReport:
    """What the calls made while it was collected did, summed up.

    Attributes:
        tokens: Tokens of all inputs after truncation, special tokens included. Repeated inputs count each time.
        characters: Characters of all inputs, without instructions.
        truncated: Positions of the inputs that were truncated, or that were too long for `on_truncate="error"`.
        tokenizing_seconds: Time spent tokenising.
        queue_seconds: Time until the first input left the queue.
        computing_seconds: Time from then until the last result.
    """

    tokens: int = 0
    characters: int = 0
    truncated: list[int] = field(default_factory=list)
    tokenizing_seconds: float = 0.0
    queue_seconds: float = 0.0
    computing_seconds: float = 0.0

    def add(self, other: CallReport) -> None:
        """Add another report's counts and times, but not its positions, which count other inputs."""
        self.tokens += other.tokens
        self.characters += other.characters
        self.tokenizing_seconds += other.tokenizing_seconds
        self.queue_seconds += other.queue_seconds
        self.computing_seconds += other.computing_seconds


_current: ContextVar[CallReport | None] = ContextVar("bge_call_report", default=None)


@contextmanager
def collect() -> Iterator[CallReport]:
    """Collect a report of the calls that this thread or task makes inside the `with` block."""
    report = CallReport()
    token = _current.set(report)
    try:
        yield report
    finally:
        _current.reset(token)


def current() -> CallReport | None:
    """Return the report that is being collected here, if any."""
    return _current.get()
