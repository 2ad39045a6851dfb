"""Merges the texts of all callers into batches: one queue and one worker thread per device.

There is no wait timer. While the device computes one batch, whatever arrives forms the next; a lone caller waits for
nothing. Urgent texts do not even wait for the end of a bulk batch: they are computed between two of its layers.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bge_integrations.errors import ClosedError, ComputationError, OutOfMemoryError

if TYPE_CHECKING:
    from bge_integrations.core.call import Call
    from bge_integrations.models.interface import TokenSequence


class Lane(Protocol):
    """A way to compute; texts in the same lane may share a batch. Compared and hashed."""

    @property
    def token_budget(self) -> int:
        """Tokens per batch."""

    def run(self, sequences: list[TokenSequence], between_layers: Callable[[], None]) -> list[Any]:
        """One result per sequence, an exception in the place of those that failed alone.

        `between_layers` is called there, and whatever it raises ends the run.
        """


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """One tokenised text, and where its result belongs."""

    sequence: TokenSequence
    call: Call
    index: int


class _AbandonedError(Exception):
    """Nobody waits for this batch any more."""


class _Queue:
    """The texts that wait: for each lane, portions of calls. Lanes take turns, and in a lane the portions do."""

    def __init__(self) -> None:
        self._portions: dict[Lane, deque[deque[Item]]] = {}

    def __bool__(self) -> bool:
        return bool(self._portions)

    def add(self, lane: Lane, items: list[Item]) -> None:
        self._portions.setdefault(lane, deque()).append(deque(items))

    def give_back(self, lane: Lane, items: list[Item]) -> None:
        """Ahead of what waits in that lane."""
        self._portions.setdefault(lane, deque()).appendleft(deque(items))

    def next_batch(self) -> tuple[Lane, list[Item]]:
        lane = next(iter(self._portions))
        portions = self._portions.pop(lane)
        items: list[Item] = []
        room = lane.token_budget
        while portions:
            portion, before = portions.popleft(), len(items)
            while portion and (not items or len(portion[0].sequence) <= room):
                items.append(portion.popleft())
                room -= len(items[-1].sequence)
            if portion:
                (portions.appendleft if len(items) == before else portions.append)(portion)
                break
        if portions:
            self._portions[lane] = portions
        return lane, items

    def empty(self) -> list[Item]:
        """All that waited."""
        found = [item for portions in self._portions.values() for portion in portions for item in portion]
        self._portions.clear()
        return found


class Scheduler:
    """The queue and the worker of one device."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything, as a forked child must: its parent's worker does not exist in it."""
        self._changed = threading.Condition()
        self._urgent, self._bulk = _Queue(), _Queue()
        self._was_urgent = False
        self._worker: threading.Thread | None = None
        self._stopped = False

    def submit(self, lane: Lane, items: list[Item], urgent: bool) -> None:
        """Queue `items`; their calls hear of each result. Urgent items pass ahead of the others."""
        with self._changed:
            if self._stopped:
                raise ClosedError("the interpreter is shutting down; no more texts are taken")
            if self._worker is None:
                worker = threading.Thread(target=self._work, name="bge-scheduler", daemon=True)
                worker.start()  # may fail, then nothing is queued
                self._worker = worker
            (self._urgent if urgent else self._bulk).add(lane, items)
            self._changed.notify()

    def stop(self) -> None:
        """Finish the batch at hand, fail what still waits, and end the worker."""
        with self._changed:
            self._stopped = True
            waiting = self._urgent.empty() + self._bulk.empty()
            self._changed.notify()
        for item in waiting:
            item.call.fail(ClosedError("the interpreter shut down before this text was computed"))
        if self._worker is not None:
            self._worker.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._bulk or self._stopped)
                if self._stopped:
                    return
                # waiting bulk texts get their turn after each urgent batch, and let others pass between their layers
                self._was_urgent = bool(self._urgent) and not (self._bulk and self._was_urgent)
                lane, items = (self._urgent if self._was_urgent else self._bulk).next_batch()
            _compute(lane, items, _go_on if self._was_urgent else self._passing(_tokens(items)))
            del lane, items  # an idle worker must not keep weights or results alive

    def _passing(self, tokens: int) -> Callable[[], None]:
        """What lets a batch of the urgent texts that wait pass between two layers of one bulk batch of so many tokens.

        They get two thirds of the work at most, in tokens times layers, and wait for the bulk batch's end where both
        don't fit in memory.
        """
        done = passed = 0
        both_fit = True

        def give_back(lane: Lane, items: list[Item]) -> None:
            nonlocal both_fit
            both_fit = False
            with self._changed:
                self._urgent.give_back(lane, items)

        def let_pass() -> None:
            nonlocal done
            done += tokens
            if not both_fit or passed > 2 * done:
                return
            with self._changed:
                if not self._urgent:
                    return
                lane, items = self._urgent.next_batch()
            passing = _tokens(items)

            def count() -> None:
                nonlocal passed
                passed += passing

            _compute(lane, items, count, give_back)

        return let_pass


def _tokens(items: list[Item]) -> int:
    return sum(len(item.sequence) for item in items)


def _go_on() -> None:
    """Nothing passes ahead of an urgent batch."""


def _compute(
    lane: Lane,
    items: list[Item],
    let_pass: Callable[[], None],
    give_back: Callable[[Lane, list[Item]], None] | None = None,
) -> None:
    """Run a batch and tell its calls. Any failure goes to all in it; but out of memory, it is given back, or both
    halves are computed on their own.
    """
    items = [item for item in items if not item.call.is_over]
    if not items:
        return

    def between_layers() -> None:
        if all(item.call.is_over for item in items):
            raise _AbandonedError
        let_pass()

    try:
        results = lane.run([item.sequence for item in items], between_layers)
        for item, result in zip(items, results, strict=True):
            if isinstance(result, Exception):
                item.call.fail(result)
            else:
                item.call.deliver(item.index, result)
        return
    except OutOfMemoryError as error:
        if give_back is not None:
            give_back(lane, items)
            return
        if len(items) == 1:
            length = len(items[0].sequence)
            alone = f"one text of {length} tokens does not fit in memory alone; use a smaller max_length ({error})"
            items[0].call.fail(OutOfMemoryError(alone))  # without its cause, whose frames hold the memory
            return
    except _AbandonedError:
        return
    except BaseException as error:
        for call in {id(item.call): item.call for item in items}.values():
            failure = ComputationError(f"computing a batch failed ({type(error).__name__}: {error})")
            failure.__cause__ = error
            call.fail(failure)
        return
    half = len(items) // 2  # not in the handler: there, the error's frames still hold the batch's memory
    _compute(lane, items[:half], let_pass)
    _compute(lane, items[half:], let_pass)


_schedulers: dict[str, Scheduler] = {}
_lock = threading.Lock()


def scheduler_of(device: str) -> Scheduler:
    """The scheduler that all models on `device` share."""
    with _lock:
        return _schedulers.setdefault(device, Scheduler())


@atexit.register
def _stop_all() -> None:
    for scheduler in list(_schedulers.values()):
        scheduler.stop()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for scheduler in _schedulers.values():
        scheduler.start_afresh()


os.register_at_fork(after_in_child=_after_fork_in_child)
