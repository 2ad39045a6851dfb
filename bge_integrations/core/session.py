"""A caller's hold on a resident model: feeds texts to the scheduler and waits for the results."""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Generic, Literal, NoReturn, Self, TypeVar

import torch

from bge_integrations.core.call import Call, settle
from bge_integrations.core.residency import ModelKey, ModelLane, Resident, lease
from bge_integrations.core.scheduler import Item, scheduler_of
from bge_integrations.errors import ClosedError, InvalidInputError, TextTooLongError, TruncationWarning
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import Model, OutputSpec, SequenceOutput, TokenSequence

T = TypeVar("T")
OnTruncate = Literal["warn", "error", "ignore"]

#: Texts tokenised at a time; the next lot is tokenised while the device works on this one.
_CHUNK = 2048
#: A call of no more tokens than this passes ahead of longer ones.
_URGENT_TOKENS = 2048
#: An async call of no more characters and texts than this is tokenised on the event loop (about a millisecond).
_INLINE_CHARACTERS = 4096
_INLINE_TEXTS = 64


@dataclass(frozen=True)
class Work(Generic[T]):
    """What one call asks for.

    Attributes:
        inputs: Texts or pairs.
        tokenize: Makes sequences of some inputs, and says how many were cut.
        wanted: What to compute.
        on_truncate: Warn about inputs that were cut, refuse the call (before anything is computed), or neither.
        show_progress: Show a bar.
    """

    inputs: Sequence[T]
    tokenize: Callable[[Sequence[T]], tuple[list[TokenSequence], int]]
    wanted: OutputSpec
    on_truncate: OnTruncate
    show_progress: bool


class Loaded:
    """What embedders and rerankers have in common: a hold on a model, given up by `close()` or the end of `with`."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = name
        self.device = ", ".join(session.devices)
        self.dtype = str(session.key.dtype).removeprefix("torch.")
        self._longest = session.model.max_length
        self.max_length = self._longest

    @property
    def weights_digest(self) -> str:
        """The same for the same files of weights, wherever they lie and whatever they are called."""
        return self._session.weights_digest

    def close(self) -> None:
        """Give up this hold on the weights; they are freed when nobody else holds them. Calls under way finish."""
        self._session.close()

    @property
    def revision(self) -> str | None:
        """The hub's commit, where the checkpoint lies in the hub's cache."""
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


class Session:
    """Starts calls on a model until closed. Calls under way when it is closed still finish.

    On several devices, each holds a copy: the texts of a long call are dealt out to all, short calls take turns.

    Args:
        folder, family: The checkpoint and how to run it.
        devices, dtype: What `place` chose.
        layers: How many layers are needed, where that is not all.
    """

    def __init__(
        self,
        folder: Path,
        family: Family,
        devices: Sequence[torch.device],
        dtype: torch.dtype,
        layers: int | None = None,
    ) -> None:
        self._residents: list[Resident] = []
        self._turns = count()
        with ExitStack() as held:
            for device in devices:
                resident = lease(ModelKey.of(folder, family, device, dtype, layers))
                held.callback(resident.release)
                self._residents.append(resident)
            self._finalizer = weakref.finalize(self, held.pop_all().close)

    @property
    def key(self) -> ModelKey:
        """That of the first device."""
        return self._residents[0].key

    @property
    def devices(self) -> list[str]:
        return [str(resident.key.device) for resident in self._residents]

    @property
    def weights_digest(self) -> str:
        return self._residents[0].weights_digest

    @property
    def model(self) -> Model:
        """That of the first device."""
        if not self._finalizer.alive:
            raise ClosedError("used after close(); load the model again")
        return self._residents[0].model

    def close(self) -> None:
        """Give up the hold on the weights; a second call does nothing."""
        self._finalizer()

    def run(self, work: Work[T]) -> list[SequenceOutput]:
        """One output per input."""
        call = self._begin(work)
        try:
            _tell_of_cuts(self._feed(call, work), work)
            return call.future.result()
        except BaseException:
            call.cancel()
            raise

    async def arun(self, work: Work[T], characters: int) -> list[SequenceOutput]:
        """As `run`, without blocking the event loop; the inputs hold that many characters.

        Cancelling it drops the work that has not begun.
        """
        call = self._begin(work)
        try:
            if characters <= _INLINE_CHARACTERS and len(work.inputs) <= _INLINE_TEXTS:
                truncated = self._feed(call, work)
            else:
                truncated = await _in_a_thread(self._feed, call, work)
            _tell_of_cuts(truncated, work)
            return await asyncio.wrap_future(call.future)
        except BaseException:
            call.cancel()
            raise

    def _begin(self, work: Work[T]) -> Call:
        """A call that holds the model until it is over."""
        if not self._finalizer.alive:
            raise ClosedError("used after close(); load the model again")
        progress = progress_bar(len(work.inputs), "text") if work.show_progress and work.inputs else None
        with ExitStack() as held:
            for resident in self._residents:
                resident.hold()
                held.callback(resident.release)
            call = Call(len(work.inputs), progress)
            let_go = held.pop_all().close
        call.future.add_done_callback(lambda _: let_go())
        return call

    def _feed(self, call: Call, work: Work[T]) -> int:
        """Tokenise and queue all inputs, a chunk ahead of the devices; the results go to `call`.

        Returns how many inputs were cut.
        """
        inputs = work.inputs
        lanes = [ModelLane(resident, work.wanted) for resident in self._residents]
        turn = next(self._turns)
        size = _CHUNK * len(lanes)
        chunks: Iterable[tuple[list[TokenSequence], int]] = (
            work.tokenize(inputs[begin : begin + size]) for begin in range(0, len(inputs), size)
        )
        if work.on_truncate == "error":
            chunks = list(chunks)
            if truncated := sum(cut for _, cut in chunks):
                raise TextTooLongError(
                    f"{truncated} of {len(inputs)} different inputs are longer than max_length; split them, raise "
                    "max_length where the model holds more, or allow the cut with on_truncate='warn'"
                )
        queued, truncated = 0, 0
        for sequences, cut in chunks:
            truncated += cut
            call.wait_for_room(size)
            if call.is_over:
                break
            items = [Item(sequence, call, queued + i) for i, sequence in enumerate(sequences)]
            items.sort(key=lambda item: -len(item.sequence))
            urgent = len(sequences) == len(inputs) and sum(map(len, sequences)) <= _URGENT_TOKENS
            call.expect(len(items))
            # dealt out from the longest to the shortest, so that all devices have about the same to do
            shares = [items] if urgent else [items[i :: len(lanes)] for i in range(len(lanes))]
            for place_in_turn, share in enumerate(filter(None, shares), turn):
                lane = lanes[place_in_turn % len(lanes)]
                scheduler_of(str(lane.resident.key.device)).submit(lane, share, urgent)
            queued += len(items)
        return truncated


async def _in_a_thread(feed: Callable[[Call, Work[T]], int], call: Call, work: Work[T]) -> int:
    """Its result. The thread is the call's own: the few of `asyncio.to_thread` are the application's too, and a long
    call waits in it until all its texts are queued.
    """
    fed: Future[int] = Future()
    fed.set_running_or_notify_cancel()  # from now on a cancelled task can't take it away from the thread
    threading.Thread(target=settle, args=(fed, feed, call, work), name="bge-feed").start()
    return await asyncio.wrap_future(fed)


def _tell_of_cuts(truncated: int, work: Work[T]) -> None:
    if truncated and work.on_truncate == "warn":
        warnings.warn(
            f"{truncated} of {len(work.inputs)} different inputs were longer than max_length and were cut; split them, "
            "or raise max_length where the model holds more",
            TruncationWarning,
            stacklevel=_frames_of_this_package(),
        )


def _frames_of_this_package() -> int:
    """The `stacklevel` with which a warning of the caller's names the line that called into this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "bge_integrations":
        level, frame = level + 1, frame.f_back
    return level


def place(device: str | list[str] | None, dtype: str | torch.dtype | None) -> tuple[list[torch.device], torch.dtype]:
    """The devices and dtype meant; None takes CUDA where there is one, bfloat16 on CUDA and float32 on CPU.

    Raises:
        InvalidInputError: No such device or dtype here, or several devices that are not different CUDA devices.
    """
    chosen = [_device(each) for each in device] if isinstance(device, list) else [_device(device)]
    if not chosen:
        raise InvalidInputError("device=[] names no device; name one or several, or leave it out")
    if len(chosen) > 1 and (len(set(chosen)) < len(chosen) or any(each.type != "cuda" for each in chosen)):
        raise InvalidInputError(
            f"device={device!r}: several devices must be CUDA devices, each named once; 'cpu' alone uses all cores"
        )
    return chosen, _dtype(dtype, chosen[0])


def _device(device: str | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(
            f"device={device!r} is no device; use 'cpu', 'cuda', 'cuda:0' or a list of these"
        ) from error
    if chosen.type not in ("cpu", "cuda"):
        raise InvalidInputError(f"device={device!r} is not supported; use 'cpu' or 'cuda'")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidInputError(f"device={device!r} was asked for, but torch finds no CUDA device; use 'cpu'")
    return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    by_name = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    by_name |= {"float16": torch.float16} if device.type == "cuda" else {"int8": torch.int8}
    chosen = by_name.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in by_name.values():
        choices = ", ".join(map(repr, by_name))
        raise InvalidInputError(f"dtype={dtype!r} is not supported on {device.type}; use one of {choices}")
    assert chosen is not None
    return chosen
