"""One call of `encode` or `score` on its way: its results as they come in, from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def settle(future: Future[T], work: Callable[..., T], *arguments: Any) -> None:
    """Call `work`, and give its result or its error to the future; what a thread of its own runs."""
    try:
        future.set_result(work(*arguments))
    except BaseException as error:
        future.set_exception(error)


class Call:
    """Collects `size` results, in any order and from another thread, into a future.

    The future is resolved once: with all results, with the first error, or by being cancelled.

    Args:
        size: How many results to expect.
        progress: A tqdm bar to move, or None.
    """

    def __init__(self, size: int, progress: Any = None) -> None:
        self.future: Future[list[Any]] = Future()
        self._results: list[Any] = [None] * size
        self._missing = size
        self._waiting = 0
        self._changed = threading.Condition()
        self._progress = progress
        if size == 0:
            self.future.set_result([])

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for results any more: finished, failed or cancelled."""
        return self.future.done()

    def expect(self, count: int) -> None:
        """Note that `count` more results are being computed."""
        with self._changed:
            self._waiting += count

    def wait_for_room(self, limit: int) -> None:
        """Block while more than `limit` results are being computed, so that a huge call does not fill the queue."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting <= limit or self.is_over)

    def deliver(self, index: int, result: Any) -> None:
        with self._changed:
            if self.is_over:
                return
            self._results[index] = result
            self._missing -= 1
            self._waiting -= 1
            finished = self._missing == 0
            self._changed.notify_all()
        self._show("update")
        if finished:
            self._resolve(results=self._results)

    def fail(self, error: BaseException) -> None:
        self._resolve(error=error)

    def cancel(self) -> None:
        """Drop the work that has not begun; the caller has gone."""
        self.future.cancel()
        self._let_go()

    def _resolve(self, results: list[Any] | None = None, error: BaseException | None = None) -> None:
        self._show("close")  # before the caller goes on
        with self._changed:
            waited_for = not self.future.done() and self.future.set_running_or_notify_cancel()
            if waited_for and error is not None:
                self.future.set_exception(error)
            elif waited_for:
                self.future.set_result(results or [])
        self._let_go()

    def _let_go(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._show("close")

    def _show(self, action: str) -> None:
        """Move or end the bar. A bar that can't be written any more is dropped; the results are not its business."""
        if self._progress is not None:
            try:
                getattr(self._progress, action)()
            except Exception:
                self._progress = None
