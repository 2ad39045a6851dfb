"""Sequences that wait for a device, and the batches they are taken in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bge_integrations.core import runtime

if TYPE_CHECKING:
    from bge_integrations.core.request import PendingCall
    from bge_integrations.models.interface import TokenSequence


@dataclass(frozen=True, eq=False, slots=True)
class QueuedSequence:
    """One tokenised text or pair, the call that waits for its result, and the index of that result in the call."""

    sequence: TokenSequence
    call: PendingCall
    index: int
    queued_at: float


class Runner(Protocol):
    """Computes batches. Runners are hashable, and sequences queued for equal runners may share a batch."""

    def run(self, batch: list[QueuedSequence], between_layers: Callable[[], None]) -> None:
        """Compute a batch and deliver each result to its call; an exception in `between_layers` ends the run."""


class BatchQueue:
    """Waiting sequences: for each runner, portions of calls. Runners take turns, and so do a runner's portions.

    Attributes:
        sequences, tokens: How many are in the queue.
        callers: Those that wait for room, in the order in which they came.
    """

    def __init__(self) -> None:
        self._portions: dict[Runner, deque[deque[QueuedSequence]]] = {}
        self.sequences = self.tokens = 0
        self.callers: deque[object] = deque()

    def __bool__(self) -> bool:
        return bool(self._portions)

    def has_room(self, tokens: int) -> bool:
        """Return whether a portion of this many tokens fits; an empty queue takes any."""
        return not self._portions or self.tokens + tokens <= runtime.policy.max_queued_tokens

    def add(self, runner: Runner, portion: list[QueuedSequence], *, first: bool = False) -> None:
        """Queue a portion, at the end or (`first`) before the runner's other portions."""
        portions = self._portions.setdefault(runner, deque())
        (portions.appendleft if first else portions.append)(deque(portion))
        self.sequences += len(portion)
        self.tokens += tokens_of(portion)

    def next_batch(self, room: int) -> tuple[Runner, list[QueuedSequence]]:
        """Remove and return a batch for the next runner: at most `room` tokens, or one longer sequence alone."""
        runner = next(iter(self._portions))
        portions = self._portions.pop(runner)
        batch: list[QueuedSequence] = []
        while portions:
            portion, before = portions.popleft(), len(batch)
            while portion and (not batch or len(portion[0].sequence) <= room):
                batch.append(portion.popleft())
                room -= len(batch[-1].sequence)
            if portion:
                (portions.appendleft if len(batch) == before else portions.append)(portion)
                break
        if portions:
            self._portions[runner] = portions
        self.sequences -= len(batch)
        self.tokens -= tokens_of(batch)
        if not self._portions:  # a caller that was interrupted by Ctrl-C may have left them wrong
            self.sequences = self.tokens = 0
        return runner, batch

    def drain(self) -> list[QueuedSequence]:
        """Remove and return all queued sequences."""
        waiting = [queued for portions in self._portions.values() for portion in portions for queued in portion]
        self._portions.clear()
        self.sequences = self.tokens = 0
        return waiting


def tokens_of(batch: list[QueuedSequence]) -> int:
    """Return the number of tokens in these sequences."""
    return sum(len(queued.sequence) for queued in batch)
