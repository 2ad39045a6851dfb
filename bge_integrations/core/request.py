"""A call of `encode` or `score`: what it requests, and the results it waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

from bge_integrations.core import report, runtime

if TYPE_CHECKING:
    from bge_integrations.models.interface import OutputSpec, TokenSequence

OnTruncate = Literal["warn", "error", "ignore"]
P = ParamSpec("P")
T = TypeVar("T")
Input = TypeVar("Input", bound=Hashable)


@dataclass(frozen=True)
class Request(Generic[Input]):
    """What a call requests. Inputs that occur several times are computed once.

    Attributes:
        inputs: The distinct texts or pairs.
        positions: For each text or pair of the call, its position in `inputs`.
        tokenize: Returns the sequences of some inputs, and {position: tokens} of those that were truncated.
        max_length: Maximum number of tokens of an input.
        spec: What to compute.
        on_truncate: "warn" about truncated inputs, "error" to refuse the call before it is computed, or "ignore".
        show_progress: Whether to show a progress bar.
        report: Where to report what the call did; None if the caller collects no report.
        chunk: Maximum number of inputs that are tokenised at a time; None leaves it to the policy.
    """

    inputs: Sequence[Input]
    positions: Sequence[int]
    tokenize: Callable[[Sequence[Input]], tuple[list[TokenSequence], dict[int, int]]]
    max_length: int
    spec: OutputSpec
    on_truncate: OnTruncate
    show_progress: bool
    report: report.CallReport | None
    chunk: int | None = None

    @classmethod
    def of(
        cls,
        inputs: Sequence[Input],
        tokenize: Callable[[Sequence[Input]], tuple[list[TokenSequence], dict[int, int]]],
        max_length: int,
        spec: OutputSpec,
        on_truncate: OnTruncate,
        show_progress: bool,
        chunk: int | None = None,
    ) -> Request[Input]:
        """Create a request from checked inputs, some of which may occur several times."""
        numbers: dict[Input, int] = {}
        positions = [numbers.setdefault(each, len(numbers)) for each in inputs]
        return cls(
            list(numbers), positions, tokenize, max_length, spec, on_truncate, show_progress, report.current(), chunk
        )

    def in_call(self, tokens: Mapping[int, int]) -> dict[int, int]:
        """Return {position in the call: tokens} for {position in `inputs`: tokens}."""
        return {i: tokens[distinct] for i, distinct in enumerate(self.positions) if distinct in tokens}

    @property
    def characters(self) -> int:
        """Number of characters in the distinct inputs."""
        return sum(map(_characters, self.inputs))


def _characters(each: Any) -> int:
    return sum(map(len, each)) if isinstance(each, tuple) else len(each)


async def off_loop(inputs: object, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `check`, which reads all inputs of a call; in a thread if they are so many that it would block the loop."""
    if not isinstance(inputs, (list, tuple)) or len(inputs) <= runtime.policy.inline_texts:
        return check(*args, **kwargs)
    checked: Future[T] = Future()
    checked.set_running_or_notify_cancel()
    work = partial(copy_context().run, partial(check, *args, **kwargs))
    # a thread of its own, because the application may be using all threads of `asyncio.to_thread`
    threading.Thread(target=settle, args=(checked, work), name="bge-check").start()
    return await asyncio.wrap_future(checked)


class PendingCall:
    """Collects `size` results, in any order and from other threads, into a future.

    The future is resolved once: with all results, with the first error, or by being cancelled.

    Args:
        size: Number of results to expect.
        progress: A tqdm bar to update, or None.

    Attributes:
        future: Resolves to the results, in order.
        slowdowns: Why the call was slower than expected, to warn the caller about.
        queued_at, started_at: When its first input was queued, and when its first batch was started; None before that.
    """

    def __init__(self, size: int, progress: Any = None) -> None:
        self.future: Future[list[Any]] = Future()
        self.slowdowns: set[str] = set()
        self.queued_at: float | None = None
        self.started_at: float | None = None
        self._results: list[Any] = [None] * size
        self._missing = size
        self._computing = 0
        self._changed = threading.Condition()
        self._progress = progress
        if size == 0:
            self.future.set_result([])

    @property
    def is_over(self) -> bool:
        """Whether the call has finished, failed or been cancelled, so that no caller is waiting for its results."""
        return self.future.done()

    def expect(self, count: int, limit: int) -> None:
        """Announce `count` more results; block while more than `limit` are outstanding, so that queues stay short."""
        with self._changed:
            self._changed.wait_for(lambda: self._computing <= limit or self.is_over)
            self._computing += count

    def deliver(self, index: int, result: Any) -> None:
        """Store the result with this index."""
        with self._changed:
            if self.is_over:
                return
            self._results[index] = result
            self._missing -= 1
            self._computing -= 1
            finished = self._missing == 0
            self._changed.notify_all()
        if self._progress is not None:
            self._show("update")
        if finished:
            self._resolve(results=self._results)

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        self._resolve(error=error)

    def cancel(self) -> None:
        """End the call because no caller is waiting for it any more; work that has not started is dropped."""
        self.future.cancel()
        with self._changed:
            self._changed.notify_all()
        if self._progress is not None:
            self._show("close")

    def _resolve(self, results: list[Any] | None = None, error: BaseException | None = None) -> None:
        if self._progress is not None:
            self._show("close")  # before the caller continues
        with self._changed:
            is_awaited = not self.future.done() and self.future.set_running_or_notify_cancel()
            if is_awaited and error is not None:
                self.future.set_exception(error)
            elif is_awaited:
                self.future.set_result(results or [])
            self._changed.notify_all()

    def _show(self, action: str) -> None:
        """Update or close the bar. If that fails, drop the bar: the results don't depend on it."""
        try:
            getattr(self._progress, action)()
        except Exception:
            self._progress = None


def settle(future: Future[T], work: Callable[..., T], *arguments: Any) -> None:
    """Call `work` and set its result or error on the future; the target of threads that run a single job."""
    try:
        future.set_result(work(*arguments))
    except BaseException as error:
        future.set_exception(error)
