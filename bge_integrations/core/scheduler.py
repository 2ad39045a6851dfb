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
    from bge_integrations.core.batch import TokenSequence
    from bge_integrations.core.call import Call


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


class Scheduler:
    """The queue and the worker of one device."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything, as a forked child must: its parent's worker does not exist in it."""
        self._changed = threading.Condition()
        self._urgent: dict[Lane, deque[Item]] = {}
        self._bulk: dict[Lane, deque[Item]] = {}
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
            queue = self._urgent if urgent else self._bulk
            queue.setdefault(lane, deque()).extend(items)
            self._changed.notify()

    def stop(self) -> None:
        """Finish the batch at hand, fail what still waits, and end the worker."""
        with self._changed:
            self._stopped = True
            waiting = [item for queue in (self._urgent, self._bulk) for items in queue.values() for item in items]
            self._urgent.clear()
            self._bulk.clear()
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
                lane, items = _next_batch(self._urgent if self._was_urgent else self._bulk)
            _compute(lane, items, _go_on if self._was_urgent else self._let_urgent_pass)
            del lane, items  # an idle worker must not keep weights or results alive

    def _let_urgent_pass(self) -> None:
        """Compute one batch of the urgent texts that wait, if any do; bulk texts get on by a layer for each."""
        with self._changed:
            if not self._urgent:
                return
            lane, items = _next_batch(self._urgent)
        _compute(lane, items, _go_on)


def _next_batch(queue: dict[Lane, deque[Item]]) -> tuple[Lane, list[Item]]:
    lane = next(iter(queue))
    waiting = queue.pop(lane)
    items = [waiting.popleft()]
    tokens = len(items[0].sequence)
    while waiting and tokens + len(waiting[0].sequence) <= lane.token_budget:
        items.append(waiting.popleft())
        tokens += len(items[-1].sequence)
    if waiting:
        queue[lane] = waiting  # behind the other lanes, so that models take turns
    return lane, items


def _go_on() -> None:
    """Nothing passes ahead of an urgent batch."""


def _compute(lane: Lane, items: list[Item], let_pass: Callable[[], None]) -> None:
    """Run a batch and tell its calls. Out of memory: both halves on their own; any other failure: to all in it."""
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
