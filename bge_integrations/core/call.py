"""A call of `encode` or `score` that waits for its results, which other threads deliver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def settle(future: Future[T], work: Callable[..., T], *arguments: Any) -> None:
    """Call `work` and give its result or its error to the future; the target of a thread made for one job."""
    try:
        future.set_result(work(*arguments))
    except BaseException as error:
        future.set_exception(error)


class PendingCall:
    """Collects `size` results, in any order and from other threads, into a future.

    The future is resolved once: with all results, with the first error, or by being cancelled.

    Args:
        size: Number of results to expect.
        progress: A tqdm bar to move, or None.

    Attributes:
        future: Resolves to the results, in order.
        slowdowns: Why the call was slower than expected, to warn the caller about.
    """

    def __init__(self, size: int, progress: Any = None) -> None:
        self.future: Future[list[Any]] = Future()
        self.slowdowns: set[str] = set()
        self._results: list[Any] = [None] * size
        self._missing = size
        self._computing = 0
        self._changed = threading.Condition()
        self._progress = progress
        if size == 0:
            self.future.set_result([])

    @property
    def is_over(self) -> bool:
        """Whether the call has finished, failed or been cancelled, so that nobody waits for results."""
        return self.future.done()

    def expect(self, count: int, limit: int) -> None:
        """Announce `count` more results; block while more than `limit` are outstanding, so that queues stay short."""
        with self._changed:
            self._changed.wait_for(lambda: self._computing <= limit or self.is_over)
            self._computing += count

    def deliver(self, index: int, result: Any) -> None:
        """Take the result with this index."""
        with self._changed:
            if self.is_over:
                return
            self._results[index] = result
            self._missing -= 1
            self._computing -= 1
            finished = self._missing == 0
            self._changed.notify_all()
        self._show("update")
        if finished:
            self._resolve(results=self._results)

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        self._resolve(error=error)

    def cancel(self) -> None:
        """End the call because the caller has gone; work that has not begun is dropped."""
        self.future.cancel()
        self._let_go()

    def _resolve(self, results: list[Any] | None = None, error: BaseException | None = None) -> None:
        self._show("close")  # before the caller goes on
        with self._changed:
            is_awaited = not self.future.done() and self.future.set_running_or_notify_cancel()
            if is_awaited and error is not None:
                self.future.set_exception(error)
            elif is_awaited:
                self.future.set_result(results or [])
        self._let_go()

    def _let_go(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._show("close")

    def _show(self, action: str) -> None:
        """Move or close the bar. A bar that can't be written any more is dropped; the results don't depend on it."""
        if self._progress is not None:
            try:
                getattr(self._progress, action)()
            except Exception:
                self._progress = None
