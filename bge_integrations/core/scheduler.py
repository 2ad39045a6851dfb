"""Merges the texts of all callers into batches: one queue and one worker thread per device.

Nothing waits for a timer: the texts that arrive while the device computes one batch form the next batch, and a lone
caller never waits. Urgent texts don't wait for a bulk batch to end: they are computed between two of its layers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bge_integrations.core import runtime
from bge_integrations.core.batch_queue import BatchQueue, QueuedSequence, Runner, tokens_of
from bge_integrations.core.worker_threads import WorkerThreads
from bge_integrations.errors import ClosedError, ComputationError, OutOfMemoryError, OverloadedError

if TYPE_CHECKING:
    from bge_integrations.core.request import PendingCall

_logger = logging.getLogger(__name__)


class QueueIsFull(Exception):
    """The queue has no room for a caller that may not wait."""


class _Abandoned(Exception):
    """No caller is waiting for this batch any more."""


class Scheduler:
    """The queue and the worker thread of one device."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._threads: WorkerThreads | None = None
        self.reset()

    def reset(self) -> None:
        """Start with empty queues and without a worker; the parent's worker does not exist in a forked child."""
        self._changed = threading.Condition()
        self._urgent, self._bulk = BatchQueue(), BatchQueue()
        self._last_was_urgent = False
        self._worker: threading.Thread | None = None
        self._release_threads()
        self._is_stopped = False
        self._counters = runtime.counters_of(self._device)
        self._counters.queued = self._queued
        self._counters.threads = self._threads_in_use

    def submit(
        self,
        runner: Runner,
        portion: list[QueuedSequence],
        *,
        urgent: bool,
        is_new: bool = True,
        may_wait: bool = True,
    ) -> None:
        """Queue a portion of a call; each result goes to its sequence's call. Urgent sequences overtake the others.

        While the queue is full, callers wait in the order in which they came, until there is room or their call is
        over. With `when_full="refuse"`, a new call is refused instead.

        Raises:
            OverloadedError: The queue is full, the call is new, and the policy is to refuse calls.
            QueueIsFull: The queue is full, and the caller may not wait. Nothing was queued.
            ClosedError: The interpreter is shutting down.
        """
        policy = runtime.policy
        with self._changed:
            queue = self._urgent if urgent else self._bulk
            tokens = tokens_of(portion)
            if queue.callers or not queue.has_room(tokens):
                if is_new and policy.when_full == "refuse":
                    self._counters.count(refused_requests=1)
                    raise OverloadedError(
                        f"the queue of {self._device} is full ({queue.tokens} of {policy.max_queued_tokens} tokens)",
                        advice="try again later, or raise max_queued_tokens with runtime.configure",
                    )
                if not may_wait:
                    raise QueueIsFull
                self._wait_for_room(queue, portion[0].call, tokens)
            if self._is_stopped:
                raise ClosedError("the interpreter is shutting down, and no more texts are computed")
            if portion[0].call.is_over:
                return
            if self._worker is None:
                worker = threading.Thread(target=self._work, name=f"bge-scheduler-{self._device}", daemon=True)
                try:
                    worker.start()  # if this fails, nothing is queued
                except RuntimeError as error:
                    raise ComputationError(
                        f"the worker of {self._device} could not be started ({error})",
                        advice="end other threads, or raise the limit of the process (ulimit -u)",
                    ) from error
                self._worker = worker
            queue.add(runner, portion)
            self._counters.count(requests=is_new)
            self._changed.notify_all()

    def _wait_for_room(self, queue: BatchQueue, call: PendingCall, tokens: int) -> None:
        """Wait until it is this caller's turn and there is room, or the call is over. The caller holds the lock."""
        ticket = object()
        queue.callers.append(ticket)
        call.future.add_done_callback(lambda _: self._wake())
        try:
            self._changed.wait_for(
                lambda: self._is_stopped or call.is_over or (queue.callers[0] is ticket and queue.has_room(tokens))
            )
        finally:
            queue.callers.remove(ticket)
            self._changed.notify_all()  # the next caller's turn

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _queued(self) -> tuple[int, int]:
        """Return how many sequences and tokens are in the queues."""
        return self._urgent.sequences + self._bulk.sequences, self._urgent.tokens + self._bulk.tokens

    def _threads_in_use(self) -> int:
        threads = self._threads
        return 0 if threads is None else threads.count

    def stop(self) -> None:
        """Finish the current batch, fail the queued sequences, and end the worker."""
        with self._changed:
            self._is_stopped = True
            waiting = self._urgent.drain() + self._bulk.drain()
            self._changed.notify_all()
        for queued in waiting:
            queued.call.fail(ClosedError("the interpreter shut down before this text was computed"))
        if self._worker is not None:
            self._worker.join()

    def _release_threads(self) -> None:
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    def _work(self) -> None:
        batch: list[QueuedSequence] = []
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._urgent or self._bulk or self._is_stopped)
                    if self._is_stopped:
                        self._release_threads()
                        return
                    # bulk texts get a turn after each urgent batch, and run further urgent batches between their layers
                    is_urgent = bool(self._urgent) and not (self._bulk and self._last_was_urgent)
                    self._last_was_urgent = is_urgent
                    runner, batch = self._take(self._urgent if is_urgent else self._bulk)
                between_layers = _do_nothing if is_urgent else self._urgent_between_layers(tokens_of(batch))
                self._compute(runner, batch, between_layers)
                del runner, between_layers  # an idle worker must not keep weights or results alive
                batch = []
                if self._threads is None and self._device == "cpu":
                    self._threads = WorkerThreads()
        except BaseException as error:
            self._release_threads()  # the next worker needs its own
            self._fail_all(batch, error)
            raise  # shown by threading.excepthook

    def _fail_all(self, batch: list[QueuedSequence], error: BaseException) -> None:
        """Fail every call that waits for a worker which dies of `error`. The next call starts another worker."""
        with self._changed:
            self._worker = None
            waiting = batch + self._urgent.drain() + self._bulk.drain()
            self._changed.notify_all()
        for queued in waiting:
            failure = ComputationError(f"the worker of {self._device} died ({type(error).__name__}: {error})")
            failure.__cause__ = error
            queued.call.fail(failure)

    def _take(self, queue: BatchQueue) -> tuple[Runner, list[QueuedSequence]]:
        """Take the next batch of a queue. The caller holds the lock."""
        runner, batch = queue.next_batch(runtime.policy.batch_tokens(self._device))
        self._changed.notify_all()  # there is room again
        return runner, batch

    def _urgent_between_layers(self, tokens: int) -> Callable[[], None]:
        """Return a callback that runs one waiting urgent batch between two layers of a bulk batch.

        Urgent batches get at most two thirds of the work, counted in tokens times layers. If the two batches don't fit
        in memory together, urgent ones wait for the bulk batch to end.
        """
        done = overtaken = 0
        both_fit = True

        def give_back(runner: Runner, batch: list[QueuedSequence]) -> None:
            nonlocal both_fit
            both_fit = False
            _logger.info("an urgent batch did not fit in memory beside a bulk batch and waits for it to end")
            with self._changed:
                self._urgent.add(runner, batch, first=True)

        def run_urgent() -> None:
            nonlocal done
            done += tokens
            if not both_fit or overtaken > 2 * done:
                return
            with self._changed:
                if not self._urgent:
                    return
                runner, batch = self._take(self._urgent)
            urgent_tokens = tokens_of(batch)

            def count_layer() -> None:
                nonlocal overtaken
                overtaken += urgent_tokens

            self._compute(runner, batch, count_layer, give_back)

        return run_urgent

    def _compute(
        self,
        runner: Runner,
        batch: list[QueuedSequence],
        between_layers: Callable[[], None],
        give_back: Callable[[Runner, list[QueuedSequence]], None] | None = None,
    ) -> None:
        """Run a batch. A failure is delivered to every call in it.

        On out-of-memory the batch is handed to `give_back` if there is one, and split in two otherwise.
        """
        batch = [queued for queued in batch if not queued.call.is_over]
        if not batch:
            return

        def check_callers() -> None:
            if all(queued.call.is_over for queued in batch):
                raise _Abandoned
            if self._threads is not None:
                self._threads.check()
            between_layers()

        if self._threads is not None:
            self._threads.begin()
        started, counted = time.perf_counter(), self._counters.computing_seconds
        for queued in batch:
            if queued.call.started_at is None:
                queued.call.started_at = started
        try:
            runner.run(batch, check_callers)
            if self._threads is not None:
                self._threads.check()
            self._counters.count(
                batches=1,
                sequences=len(batch),
                tokens=tokens_of(batch),
                waiting_seconds=sum(started - queued.queued_at for queued in batch),
            )
            runtime.announce_batch(len(batch), tokens_of(batch))
            return
        except OutOfMemoryError as error:
            if give_back is not None:
                give_back(runner, batch)
                return
            if len(batch) == 1:
                length = len(batch[0].sequence)
                # not chained, because the frames of the cause keep the memory
                batch[0].call.fail(
                    OutOfMemoryError(
                        f"a single text of {length} tokens does not fit in memory ({error}); use a smaller max_length"
                    )
                )
                return
        except _Abandoned:
            return
        except BaseException as error:
            for call in {id(queued.call): queued.call for queued in batch}.values():
                failure = ComputationError(f"computing a batch failed ({type(error).__name__}: {error})")
                failure.__cause__ = error
                call.fail(failure)
            return
        finally:
            # urgent batches that ran between the layers have counted their own time
            urgent_seconds = self._counters.computing_seconds - counted
            self._counters.count(computing_seconds=time.perf_counter() - started - urgent_seconds)
        # outside the handler, because the frames of the error keep the batch's memory
        self._split(runner, batch, between_layers)

    def _split(self, runner: Runner, batch: list[QueuedSequence], between_layers: Callable[[], None]) -> None:
        self._counters.count(split_batches=1)
        _logger.warning(
            "a batch of %d sequences (%d tokens) did not fit in memory on %s and is computed in halves",
            len(batch),
            tokens_of(batch),
            self._device,
        )
        for queued in batch:
            queued.call.slowdowns.add(
                f"batches did not fit in memory on {self._device} and were computed in smaller ones; "
                "lower the batch size with runtime.configure, or free memory"
            )
        half = len(batch) // 2
        self._compute(runner, batch[:half], between_layers)
        self._compute(runner, batch[half:], between_layers)


def _do_nothing() -> None:
    """Run nothing between the layers of an urgent batch."""
