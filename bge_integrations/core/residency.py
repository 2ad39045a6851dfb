"""One resident copy of the weights per (checkpoint, device, dtype) and process, whoever asks for it."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bge_integrations.core.call import settle
from bge_integrations.errors import ClosedError, NonFiniteError, OutOfMemoryError
from bge_integrations.models.checkpoint import fingerprint, weights_digest
from bge_integrations.models.interface import Model, OutputSpec, SequenceOutput
from bge_integrations.models.linear import choose_cpu_kernels
from bge_integrations.models.loading import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import TokenSequence

#: Tokens of a batch, by the type of device.
TOKEN_BUDGETS = {"cpu": 1024, "cuda": 65536}
#: So long an interpreter that ends waits for a model that is being loaded.
_EXIT_SECONDS = 5


@dataclass(frozen=True)
class ModelKey:
    """Which copy: a checkpoint folder (and its state on disk: see `fingerprint`), and how it is held.

    `layers`: how many of them are read, where a reranker stops early; None is all.
    """

    folder: Path
    state: Hashable
    family: Family
    device: torch.device
    dtype: torch.dtype
    layers: int | None = None

    @classmethod
    def of(cls, folder: Path, family: Family, device: torch.device, dtype: torch.dtype, layers: int | None) -> ModelKey:
        return cls(folder.resolve(), fingerprint(folder), family, device, dtype, layers)


class Resident:
    """A model in memory, the digest of its weights, and how many hold it. Made by `lease` only."""

    def __init__(self, key: ModelKey) -> None:
        self.key = key
        self.holders = 0
        self.weights_digest = ""
        self._model: Model | None = None
        self._loading = threading.Lock()
        self._process = os.getpid()

    @property
    def model(self) -> Model:
        if self.key.device.type == "cuda" and self._process != os.getpid():
            raise ClosedError("CUDA can't be used in a forked process; start it with the 'spawn' method, or load there")
        if self._model is None:
            raise ClosedError("the model was closed")
        return self._model

    def load(self) -> None:
        """Read the weights unless that is done; who comes meanwhile waits.

        It happens in a thread of its own: one that has computed with OpenMP hangs when it does so again after a fork.
        A caller that is interrupted does not wait for it.
        """
        key = self.key
        with self._loading:
            if self._model is None:
                loading: Future[Model] = Future()
                dtype = str(key.dtype).removeprefix("torch.")
                arguments = key.folder, key.family, str(key.device), dtype, key.layers, choose_cpu_kernels()
                loader = threading.Thread(
                    target=settle, args=(loading, load_model, *arguments), name="bge-load", daemon=True
                )
                loader.start()
                _loaders.add(loader)
                model = loading.result()
                self.weights_digest = weights_digest(key.folder)  # now, because the files may be exchanged later
                self._model = model

    def hold(self) -> None:
        """One more holder, of a resident that has one."""
        with _lock:
            if self.holders == 0:
                raise ClosedError("the model was closed")
            self.holders += 1

    def release(self) -> None:
        """One holder less; the weights go with the last."""
        with _lock:
            self.holders -= 1
            if self.holders == 0:
                _residents.pop(self.key, None)
                self._model = None


_residents: dict[ModelKey, Resident] = {}
_loaders: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
#: Reentrant, because a garbage collection inside it can release another resident.
_lock = threading.RLock()


@atexit.register
def _let_loaders_end() -> None:
    """An interpreter that ends while a thread is in torch's code is aborted; a large model is not waited for."""
    for loader in list(_loaders):
        loader.join(_EXIT_SECONDS)


def lease(key: ModelKey) -> Resident:
    """The resident model of that key, loaded if need be, with one holder more; the holder calls `release`."""
    with _lock:
        resident = _residents.setdefault(key, Resident(key))
        resident.holders += 1
    try:
        resident.load()
    except BaseException:
        resident.release()
        raise
    return resident


def resident_models() -> list[ModelKey]:
    """The models now in memory."""
    with _lock:
        return list(_residents)


@dataclass(frozen=True)
class ModelLane:
    """Computes one kind of output with one resident model: what the scheduler runs."""

    resident: Resident
    wanted: OutputSpec

    @property
    def token_budget(self) -> int:
        return TOKEN_BUDGETS[self.resident.key.device.type]

    def run(
        self, sequences: list[TokenSequence], between_layers: Callable[[], None]
    ) -> list[SequenceOutput | NonFiniteError]:
        """One output per sequence. What is not finite is computed again in float32, then an error."""
        outputs = self._outputs(self.resident.model, sequences, between_layers)
        bad = [i for i, output in enumerate(outputs) if not output.is_finite()]
        and_then = "in float32 too; its weights are probably damaged"
        if bad and self.resident.key.dtype in (torch.bfloat16, torch.float16):
            try:
                with _in_float32(self.resident) as exact:
                    again = self._outputs(exact, [sequences[i] for i in bad], between_layers)
                    for i, output in zip(bad, again, strict=True):
                        outputs[i] = output
            except OutOfMemoryError as error:
                and_then = f"and to compute it in float32 there is no memory ({error}); leave such texts out"
            bad = [i for i in bad if not outputs[i].is_finite()]
        results: list[SequenceOutput | NonFiniteError] = list(outputs)
        for i in bad:
            results[i] = NonFiniteError(
                f"the model gave NaN or infinity for a text of {len(sequences[i])} tokens, {and_then}"
            )
        return results

    def _outputs(
        self, model: Model, sequences: list[TokenSequence], between_layers: Callable[[], None]
    ) -> list[SequenceOutput]:
        return model.run(sequences, self.wanted, between_layers)


@contextmanager
def _in_float32(resident: Resident) -> Iterator[Model]:
    exact = lease(replace(resident.key, dtype=torch.float32))
    try:
        yield exact.model
    finally:
        exact.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for resident in _residents.values():
        resident._loading = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
