"""A caller's hold on a shared model: feeds requests to the scheduler and waits for the results."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, Self

from bge_integrations.core import runtime
from bge_integrations.core.request import PendingCall, Request, settle
from bge_integrations.core.residency import ModelKey, SharedModel, acquire
from bge_integrations.core.runner import ModelRunner
from bge_integrations.core.scheduler import QueuedSequence
from bge_integrations.errors import ClosedError, PerformanceWarning, TextTooLongError, TruncationWarning
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import Model, SequenceOutput, TokenSequence
    from bge_integrations.models.linear import CpuKernels


class Session:
    """Starts calls on a model until it is closed. Calls under way when it is closed still finish.

    With several devices, each holds a copy of the model: the texts of a long call are dealt out to all of them, and
    short calls take turns.

    Args:
        folder, family: The checkpoint and how to run it.
        devices, dtype, kernels: How to hold it; see `ModelKey`.
        layers: How many layers are needed; None is all.
    """

    def __init__(
        self,
        folder: Path,
        family: Family,
        devices: Sequence[str],
        dtype: str,
        kernels: CpuKernels,
        layers: int | None = None,
    ) -> None:
        self.shared_models: list[SharedModel] = []
        self._turns = count()
        with ExitStack() as held:
            for device in devices:
                shared = acquire(ModelKey.of(folder, family, device, dtype, layers, kernels))
                held.callback(shared.release)
                self.shared_models.append(shared)
            self._finalizer = weakref.finalize(self, held.pop_all().close)

    @property
    def key(self) -> ModelKey:
        """The key of the model on the first device."""
        return self.shared_models[0].key

    @property
    def model(self) -> Model:
        """The model on the first device."""
        return self.shared_models[0].model

    def check_open(self) -> None:
        """Raise ClosedError after `close()`."""
        if not self._finalizer.alive:
            raise ClosedError("used after close(); load the model again")

    def close(self) -> None:
        """Give up the hold on the weights; a second call does nothing."""
        self._finalizer()

    def run(self, request: Request[Any]) -> list[SequenceOutput]:
        """Return one output per input of the request."""
        call = self._begin(request)
        try:
            if (truncated := self._feed(call, request)) and request.on_truncate == "warn":
                _warn_about_truncation(truncated, len(request.inputs))
            outputs = call.future.result()
        except BaseException:
            call.cancel()
            raise
        if call.slowdowns:
            _warn_about_slowdowns(call)
        return outputs

    async def arun(self, request: Request[Any]) -> list[SequenceOutput]:
        """Return one output per input without blocking the event loop; cancelling drops the work that has not begun."""
        call = self._begin(request)
        try:
            if self._fits_on_loop(request):
                truncated = self._feed(call, request)
            else:
                truncated = await self._feed_in_thread(call, request)
            if truncated and request.on_truncate == "warn":
                _warn_about_truncation(truncated, len(request.inputs))
            outputs: list[SequenceOutput] = await asyncio.wrap_future(call.future)
        except BaseException:
            call.cancel()
            raise
        if call.slowdowns:
            _warn_about_slowdowns(call)
        return outputs

    def _fits_on_loop(self, request: Request[Any]) -> bool:
        """Return whether tokenising and queueing takes no more than about a millisecond."""
        policy = runtime.policy
        return (
            len(request.inputs) <= policy.inline_texts
            and request.characters <= policy.inline_characters
            and not any(shared.scheduler.is_full(policy.inline_characters) for shared in self.shared_models)
        )

    def _begin(self, request: Request[Any]) -> PendingCall:
        """Return a new call, which holds the model until it is over."""
        self.check_open()
        progress = progress_bar(len(request.inputs), "text") if request.show_progress and request.inputs else None
        with ExitStack() as held:
            for shared in self.shared_models:
                shared.hold()
                held.callback(shared.release)
            call = PendingCall(len(request.inputs), progress)
            let_go = held.pop_all().close
        call.future.add_done_callback(lambda _: let_go())
        return call

    def _feed(self, call: PendingCall, request: Request[Any]) -> int:
        """Tokenise and queue all inputs, one chunk ahead of the devices. Return how many inputs were cut."""
        runners = [ModelRunner(shared, request.spec) for shared in self.shared_models]
        turn = next(self._turns)
        policy = runtime.policy
        size = policy.chunk_texts * len(runners)
        queued = truncated = 0
        for sequences, cut in _chunks(request, size):
            truncated += cut
            call.expect(len(sequences), size)
            if call.is_over:
                break
            now = time.perf_counter()
            portion = [QueuedSequence(sequence, call, queued + i, now) for i, sequence in enumerate(sequences)]
            portion.sort(key=lambda each: -len(each.sequence))
            urgent = len(sequences) == len(request.inputs) and sum(map(len, sequences)) <= policy.urgent_tokens
            # dealt out from the longest to the shortest, so that all devices have about the same to do
            shares = [portion] if urgent else [portion[i :: len(runners)] for i in range(len(runners))]
            for i, share in enumerate(filter(None, shares), turn):
                runner = runners[i % len(runners)]
                runner.shared.scheduler.submit(runner, share, urgent=urgent, is_new=queued == 0 and i == turn)
            queued += len(portion)
        return truncated

    async def _feed_in_thread(self, call: PendingCall, request: Request[Any]) -> int:
        """Run `_feed` in a dedicated thread, so that long calls don't occupy the application's `to_thread` pool."""
        fed: Future[int] = Future()
        fed.set_running_or_notify_cancel()  # from now on a cancelled task can't take it away from the thread
        threading.Thread(target=settle, args=(fed, self._feed, call, request), name="bge-feed").start()
        return await asyncio.wrap_future(fed)


class Loaded:
    """What embedders and rerankers share: a hold on a model, given up by `close()` or at the end of `with`."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = name
        self.device = ", ".join(shared.key.device for shared in session.shared_models)
        self.dtype = session.key.dtype
        self._longest = session.model.max_length
        self.max_length = self._longest

    @property
    def weights_digest(self) -> str:
        """The same for the same files of weights, wherever they lie and whatever they are called."""
        return self._session.shared_models[0].weights_digest

    def close(self) -> None:
        """Give up this hold on the weights; they are freed when nobody else holds them. Calls under way finish."""
        self._session.close()

    @property
    def revision(self) -> str | None:
        """The hub's commit if the checkpoint lies in the hub's cache."""
        folder = self._session.key.folder
        in_cache = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
        return folder.name if in_cache else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} objects can't be pickled or copied; load the model again instead")

    def __repr__(self) -> str:
        settings = f"device={self.device!r}, dtype={self.dtype!r}, max_length={self.max_length}"
        return f"{type(self).__name__}({self.name!r}, {settings})"


def _chunks(request: Request[Any], size: int) -> Iterator[tuple[list[TokenSequence], int]]:
    """Yield the sequences of `size` inputs at a time, and how many of these inputs were cut."""
    inputs = request.inputs
    chunks = (request.tokenize(inputs[begin : begin + size]) for begin in range(0, len(inputs), size))
    if request.on_truncate != "error":
        yield from chunks
        return
    tokenized = list(chunks)  # all of them, before anything is computed
    if truncated := sum(cut for _, cut in tokenized):
        raise TextTooLongError(
            f"{truncated} of {len(inputs)} different inputs are longer than max_length; split them, raise max_length "
            "if the model allows it, or allow truncation with on_truncate='warn'"
        )
    yield from tokenized


def _warn_about_truncation(truncated: int, inputs: int) -> None:
    _warn(
        f"{truncated} of {inputs} different inputs were longer than max_length and were cut; split them, or raise "
        "max_length if the model allows it",
        TruncationWarning,
    )


def _warn_about_slowdowns(call: PendingCall) -> None:
    for slowdown in sorted(call.slowdowns):
        _warn(slowdown, PerformanceWarning)


def _warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into this package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "bge_integrations":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
