"""What a process shares: one model per checkpoint, device and dtype, and one scheduler per device."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakSet, WeakValueDictionary

from bge_integrations.core import runtime
from bge_integrations.core.request import settle
from bge_integrations.core.scheduler import Scheduler
from bge_integrations.core.shared_pass import SharedPass
from bge_integrations.errors import ClosedError
from bge_integrations.models.adapter import adapted_digest
from bge_integrations.models.checkpoint import fingerprint, weights_digest
from bge_integrations.models.loading import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import Backend, CpuKernels, Model

_logger = logging.getLogger(__name__)
_CLOSED = "the model was closed; load the model again"
#: Seconds after which a waiting thread looks for a Ctrl-C.
_NOTICED_AFTER = 0.5


@dataclass(frozen=True)
class ModelKey:
    """The key of a shared model: a checkpoint folder, its state on disk, and how it is loaded.

    Attributes:
        folder: The checkpoint folder, or a LoRA adapter's.
        state: The fingerprint of the folder and its base, which changes when a file is rewritten.
        family: Which code runs it.
        device: "cpu", "cuda:0", ….
        dtype: "float32", "bfloat16", "float16" or "int8".
        layers: Number of layers to load, for rerankers that stop early; None loads all.
        kernels: Which linear kernels the CPU uses.
        backend: The library that runs the model.
        base: The checkpoint that the adapter is merged into; None if `folder` is not an adapter.
    """

    folder: Path
    state: Hashable
    family: Family
    device: str
    dtype: str
    layers: int | None
    kernels: CpuKernels
    backend: Backend = "torch"
    base: Path | None = None

    @classmethod
    def of(
        cls,
        folder: Path,
        base: Path | None,
        family: Family,
        device: str,
        dtype: str,
        layers: int | None,
        kernels: CpuKernels,
    ) -> ModelKey:
        """Return the key of a folder and its base as they are on disk now."""
        state = fingerprint(folder) if base is None else (fingerprint(folder), fingerprint(base))
        resolved = None if base is None else base.resolve()
        return cls(folder.resolve(), state, family, device, dtype, layers, kernels, base=resolved)

    @property
    def weights_digest(self) -> str:
        """Digest of the weight files, independent of their path."""
        return weights_digest(self.folder) if self.base is None else adapted_digest(self.folder, self.base)


class SharedModel:
    """A model in memory, shared by its holders (sessions, running calls). Only `acquire` creates one.

    Attributes:
        key: Which model it is.
        holders: Number of holders; the weights are released when the last one releases the model.
        weights_digest: Digest of the weight files, independent of their path.
        scheduler: Runs its batches.
    """

    def __init__(self, key: ModelKey, scheduler: Scheduler) -> None:
        self.key = key
        self.holders = 0
        self.weights_digest = ""
        self.scheduler = scheduler
        self._passes: WeakValueDictionary[Hashable, SharedPass] = WeakValueDictionary()
        self._model: Model | None = None
        self._in_float32: SharedModel | None = None
        self.loading = threading.Lock()
        self._process = os.getpid()

    @property
    def model(self) -> Model:
        """The loaded model; raises ClosedError if it was closed or can't be used in this process."""
        if self.key.device != "cpu" and self._process != os.getpid():
            raise ClosedError(
                "CUDA can't be used in a forked process; start the process with the 'spawn' method, or load the model "
                "in it"
            )
        if self._model is None:
            raise ClosedError(_CLOSED)
        return self._model

    def load(self) -> None:
        """Load the weights unless they are loaded. Concurrent callers wait for the first load.

        A dedicated thread loads them, because a thread that has used OpenMP hangs if it uses OpenMP again after a
        fork. An interrupted caller does not wait for it.
        """
        key = self.key
        with self.loading:
            if self._model is None:
                loaded: Future[Model] = Future()
                how = key.family, key.device, key.dtype, key.layers, key.kernels, key.backend
                loader = threading.Thread(
                    target=settle, args=(loaded, load_model, key.folder, *how, key.base), name="bge-load", daemon=True
                )
                loader.start()
                _process.loaders.add(loader)
                while not loaded.done():  # a Ctrl-C just before an endless wait would be noticed only after it
                    wait([loaded], timeout=_NOTICED_AFTER)
                model = loaded.result()
                self.weights_digest = key.weights_digest  # now, because the files may change later
                self._model = model

    def shared_pass(self, settings: Hashable) -> SharedPass:
        """Return the pass that the two adapters of a hybrid store share if their settings are equal."""
        with _process.lock:
            shared_pass = self._passes.get(settings)
            if shared_pass is None:
                shared_pass = self._passes[settings] = SharedPass()
            return shared_pass

    def passes(self) -> list[SharedPass]:
        """Return the shared passes of this model that adapters use."""
        return list(self._passes.values())

    def hold(self) -> None:
        """Add a holder to a model that already has one."""
        with _process.lock:
            if self.holders == 0:
                raise ClosedError(_CLOSED)
            self.holders += 1

    def release(self) -> None:
        """Remove a holder; when the last one is removed, the weights are freed."""
        with _process.lock:
            self.holders -= 1
            if self.holders:
                return
            _process.models.pop(self.key, None)
            self._model = None
            in_float32, self._in_float32 = self._in_float32, None
        if in_float32 is not None:
            in_float32.release()

    def in_float32(self) -> SharedModel:
        """Return the same model in float32, loaded on the first call and kept as long as this one.

        Raises:
            OutOfMemoryError: There is not enough memory for it.
            ClosedError: This model was closed in the meantime.
        """
        if self._in_float32 is None:
            exact = acquire(replace(self.key, dtype="float32"))
            with _process.lock:
                is_first = self._in_float32 is None and self.holders > 0
                if is_first:
                    self._in_float32 = exact
            if not is_first:
                exact.release()
        if self._in_float32 is None:
            raise ClosedError(_CLOSED)
        return self._in_float32


class _Process:
    """The shared models and schedulers of this process."""

    def __init__(self) -> None:
        self.models: dict[ModelKey, SharedModel] = {}
        self.schedulers: dict[str, Scheduler] = {}
        self.loaders: WeakSet[threading.Thread] = WeakSet()
        #: Reentrant, because a garbage collection inside it can release another model.
        self.lock = threading.RLock()

    def reset_after_fork(self) -> None:
        """Replace what a forked child can't use: the queues, and locks that the parent's threads may hold."""
        self.lock = threading.RLock()
        for shared in self.models.values():
            shared.loading = threading.Lock()
            for shared_pass in shared.passes():
                shared_pass.reset()
        runtime.reset_after_fork()
        for scheduler in self.schedulers.values():
            scheduler.reset()

    def stop(self) -> None:
        """Let threads leave the backend's code: Python aborts if it exits while a thread is inside torch."""
        for scheduler in list(self.schedulers.values()):
            scheduler.stop()
        for loader in list(self.loaders):  # but don't wait for a large model
            loader.join(runtime.policy.exit_seconds)


_process = _Process()
atexit.register(_process.stop)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_process.reset_after_fork)


def acquire(key: ModelKey) -> SharedModel:
    """Return the shared model with this key, loaded if necessary. The caller holds it and must call `release`."""
    with _process.lock:
        shared = _process.models.get(key)
        if shared is None:
            if key.device not in _process.schedulers:
                _process.schedulers[key.device] = Scheduler(key.device)
            shared = _process.models[key] = SharedModel(key, _process.schedulers[key.device])
            _logger.debug("loading %s (%s) in %s on %s", key.folder, key.family, key.dtype, key.device)
        shared.holders += 1
    try:
        shared.load()
    except BaseException:
        shared.release()
        raise
    return shared


def models_in_memory() -> list[ModelKey]:
    """Return the keys of the models that this process has loaded."""
    with _process.lock:
        return list(_process.models)
