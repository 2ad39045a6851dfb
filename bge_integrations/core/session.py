"""A caller's session with a shared model: submits requests to the scheduler and waits for the results."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, Self

from bge_integrations.core import runtime
from bge_integrations.core.batch_queue import QueuedSequence
from bge_integrations.core.image_inputs import ImageInput
from bge_integrations.core.request import PendingCall, Request, settle
from bge_integrations.core.residency import ModelKey, SharedModel, acquire
from bge_integrations.core.runner import ModelRunner
from bge_integrations.core.scheduler import QueueIsFull
from bge_integrations.errors import BGEError, ClosedError, ComputationError, PerformanceWarning, TextTooLongError
from bge_integrations.progress import progress_bar
from bge_integrations.reporting import TruncatedTexts, report_truncation, warn_caller

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import CpuKernels, Model, SequenceOutput, TokenSequence


class Session:
    """Runs calls on a model until it is closed. Calls that are running when it is closed still finish.

    With several devices, each has a copy of the model: a long call is split over all of them, and each short call goes
    to the next one.

    Args:
        folder, base, family: The checkpoint and how to run it; see `ModelKey`.
        devices, dtype, kernels: How to load it; see `ModelKey`.
        layers: Number of layers to load; None loads all.
    """

    def __init__(
        self,
        folder: Path,
        base: Path | None,
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
                shared = acquire(ModelKey.of(folder, base, family, device, dtype, layers, kernels))
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
            raise ClosedError("the model was closed; load the model again")

    def close(self) -> None:
        """Release the weights; a second call does nothing."""
        self._finalizer()

    def run(self, request: Request[Any]) -> list[SequenceOutput]:
        """Return one output per input of the request."""
        call = self._begin(request)
        try:
            _report_truncation(self._feed(call, request), request)
            outputs = call.future.result()
        except BaseException:
            call.cancel()
            raise
        _report_times(call, request)
        if call.slowdowns:
            _warn_about_slowdowns(call)
        return outputs

    async def arun(self, request: Request[Any]) -> list[SequenceOutput]:
        """Return one output per input without blocking the event loop; cancelling drops work that has not started."""
        call = self._begin(request)
        try:
            try:
                truncated = self._feed_on_loop(call, request)
            except QueueIsFull:
                truncated = await self._feed_in_thread(call, request)
            _report_truncation(truncated, request)
            outputs: list[SequenceOutput] = await asyncio.wrap_future(call.future)
        except BaseException:
            call.cancel()
            raise
        _report_times(call, request)
        if call.slowdowns:
            _warn_about_slowdowns(call)
        return outputs

    def _feed_on_loop(self, call: PendingCall, request: Request[Any]) -> dict[int, int]:
        """Run `_feed` for a call that is small enough to take about a millisecond.

        Raises:
            QueueIsFull: It is not, or would have to wait for room in a queue. Nothing was queued.
        """
        policy = runtime.policy
        most = min(policy.inline_texts, policy.chunk_texts)
        if len(request.inputs) > most or request.characters > policy.inline_characters:
            raise QueueIsFull
        return self._feed(call, request, may_wait=False)

    def _begin(self, request: Request[Any]) -> PendingCall:
        """Return a new call, which keeps the model loaded until it is over."""
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

    def _feed(self, call: PendingCall, request: Request[Any], may_wait: bool = True) -> dict[int, int]:
        """Tokenise and queue all inputs, one chunk ahead of the devices. Return {input: tokens} of those truncated."""
        runners = [ModelRunner(shared, request.spec) for shared in self.shared_models]
        turn = next(self._turns)
        policy = runtime.policy
        size = min(policy.chunk_texts, request.chunk or policy.chunk_texts) * len(runners)
        queued = 0
        truncated: dict[int, int] = {}
        for sequences, truncated_here in _chunks(request, size):
            truncated |= {queued + i: tokens for i, tokens in truncated_here.items()}
            call.expect(len(sequences), size)
            if call.is_over:
                break
            now = time.perf_counter()
            call.queued_at = call.queued_at or now
            portion = [QueuedSequence(sequence, call, queued + i, now) for i, sequence in enumerate(sequences)]
            portion.sort(key=lambda each: -len(each.sequence))
            urgent = len(sequences) == len(request.inputs) and sum(map(len, sequences)) <= policy.urgent_tokens
            # distributed from longest to shortest, so that all devices get about the same amount of work
            shares = [portion] if urgent or not may_wait else [portion[i :: len(runners)] for i in range(len(runners))]
            for i, share in enumerate(filter(None, shares), turn):
                runner = runners[i % len(runners)]
                is_new = queued == 0 and i == turn
                runner.shared.scheduler.submit(runner, share, urgent=urgent, is_new=is_new, may_wait=may_wait)
            queued += len(portion)
        return truncated

    async def _feed_in_thread(self, call: PendingCall, request: Request[Any]) -> dict[int, int]:
        """Run `_feed` in a dedicated thread, so that long calls don't occupy the application's `to_thread` pool."""
        fed: Future[dict[int, int]] = Future()
        fed.set_running_or_notify_cancel()  # so that a cancelled task can't cancel the thread's future
        threading.Thread(target=settle, args=(fed, self._feed, call, request), name="bge-feed").start()
        return await asyncio.wrap_future(fed)


class Loaded:
    """Base of `Embedder` and `Reranker`: a loaded model, released by `close()` or at the end of a `with` block."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = name
        self.device = ", ".join(shared.key.device for shared in session.shared_models)
        self.dtype = session.key.dtype
        self._longest = session.model.max_length
        self.max_length = self._longest

    @property
    def weights_digest(self) -> str:
        """Digest of the weight files, independent of their path and name."""
        return self._session.shared_models[0].weights_digest

    def close(self) -> None:
        """Release the model; its weights are freed when nothing else uses them. Running calls still finish."""
        self._session.close()

    @property
    def revision(self) -> str | None:
        """The hub's commit if the checkpoint is in the hub's cache; None otherwise."""
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


def _chunks(request: Request[Any], size: int) -> Iterator[tuple[list[TokenSequence], dict[int, int]]]:
    """Yield the sequences of `size` inputs at a time, and {position: tokens} of those that were truncated."""
    inputs = request.inputs
    chunks = (_tokenize(request, begin, begin + size) for begin in range(0, len(inputs), size))
    if request.on_truncate != "error":
        yield from chunks
        return
    tokenized = list(chunks)  # all of them, before anything is computed
    truncated = {size * i + j: tokens for i, (_, chunk) in enumerate(tokenized) for j, tokens in chunk.items()}
    if truncated:
        report = TruncatedTexts()
        report.add(request.in_call(truncated), len(request.positions), request.max_length)
        raise TextTooLongError(
            report.finding,
            advice="split them, raise max_length if the model allows it, or allow truncation with on_truncate='warn'",
        )
    yield from tokenized


def _tokenize(request: Request[Any], begin: int, end: int) -> tuple[list[TokenSequence], dict[int, int]]:
    """Return the sequences of the inputs from `begin` to `end`, and {position: tokens} of those truncated."""
    started = time.perf_counter()
    try:
        sequences, truncated = request.tokenize(request.inputs[begin:end])
    except (BGEError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library raises bare Exception, and panics that are not even that
        raise ComputationError(f"tokenizing failed ({type(error).__name__}: {error})") from error
    if request.report is not None:
        here = [(position, i - begin) for position, i in enumerate(request.positions) if begin <= i < end]
        request.report.tokens += sum(len(sequences[i]) for _, i in here)
        request.report.characters += sum(_characters(request.inputs[begin + i]) for _, i in here)
        request.report.truncated += [position for position, i in here if i in truncated]
        request.report.tokenizing_seconds += time.perf_counter() - started
    return sequences, truncated


def _characters(given: str | ImageInput | tuple[str, str]) -> int:
    """Return the number of characters in a text, in an image's text, or in a pair."""
    if isinstance(given, ImageInput):
        return len(given.text or "")
    return len(given) if isinstance(given, str) else sum(map(len, given))


def _report_times(call: PendingCall, request: Request[Any]) -> None:
    if request.report is not None and call.queued_at is not None and call.started_at is not None:
        request.report.queue_seconds += call.started_at - call.queued_at
        request.report.computing_seconds += time.perf_counter() - call.started_at


def _report_truncation(truncated: dict[int, int], request: Request[Any]) -> None:
    """Warn about truncated inputs, if the call is to."""
    if request.on_truncate == "warn":
        report_truncation(request.in_call(truncated), len(request.positions), request.max_length)


def _warn_about_slowdowns(call: PendingCall) -> None:
    for slowdown in sorted(call.slowdowns):
        warn_caller(slowdown, PerformanceWarning)
