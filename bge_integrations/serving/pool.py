"""The models of a server: found by name, loaded at start or when first used, and unloaded to make room."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from bge_integrations.core.request import settle
from bge_integrations.errors import BGEError, InvalidInputError
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.serving.settings import ServerSettings

ModelKind = Literal["embedder", "reranker"]
_logger = logging.getLogger(__name__)
#: Bytes of a number.
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
#: Maximum number of settings (instruction, dimensions) per model that are kept ready. They share the weights.
_VARIANTS = 32
_DOWNLOADING = "bge-download"


class ServedModel:
    """A model that the server can load.

    Attributes:
        source: The argument of `load_embedder` or `load_reranker`.
        kind: Which of the two.
        names: The names that requests can use; the first is its id.
        model: The loaded model, or None.
        size: Bytes of its weights in memory; 0 until it was loaded.
        users: Number of requests that use it now.
        used_at: When a request used it last.
        loading: The task that loads it, or None.
    """

    def __init__(self, source: str, kind: ModelKind, names: Sequence[str]) -> None:
        self.source = source
        self.kind = kind
        self.names = names
        self.model: Embedder | Reranker | None = None
        self.size = 0
        self.users = 0
        self.used_at = 0.0
        self.loading: asyncio.Task[None] | None = None
        self.variants: OrderedDict[tuple[str | None, int | None], Embedder] = OrderedDict()

    @property
    def id(self) -> str:
        return self.names[0]

    @property
    def digest(self) -> str | None:
        """The digest of the weights; None if they are not loaded."""
        return None if self.model is None else self.model.weights_digest

    def close(self) -> None:
        """Unload the model. Calls that are running still finish."""
        for variant in self.variants.values():
            variant.close()
        self.variants.clear()
        if self.model is not None:
            self.model.close()
        self.model = None


class ModelPool:
    """All models of a server. Its methods run on the event loop, so they need no lock; weights are read in threads."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.models = [ServedModel(source, "embedder", _names(source)) for source in settings.models]
        self.models += [ServedModel(source, "reranker", _names(source)) for source in settings.rerankers]
        if self.models and settings.served_model_names:
            first = self.models[0]
            first.names = list(dict.fromkeys([*settings.served_model_names, *first.names]))
        for kind in ("embedder", "reranker"):
            names = [name for model in self.models if model.kind == kind for name in model.names]
            if twice := [name for name in names if names.count(name) > 1]:
                raise InvalidInputError(
                    f"two models are named {twice[0]!r}", argument=f"{kind}s", advice="rename the folder of one"
                )
        self._memory = asyncio.Lock()
        #: Whether models that are not loaded are loaded when a request needs them.
        self.loads_on_demand = False

    def find(self, name: str | None, kind: ModelKind) -> ServedModel:
        """Return the model of this kind with this name, or the first one for None.

        Raises:
            Refusal: There is none.
        """
        of_kind = [model for model in self.models if model.kind == kind]
        if not of_kind:
            raise Refusal(424, f"this server has no {kind}", "model_not_found", param="model")
        if name is None:
            return of_kind[0]
        wanted = name.lower()
        for model in of_kind:
            if wanted in (each.lower() for each in model.names):
                return model
        known = ", ".join(model.id for model in of_kind)
        raise Refusal(404, f"this server has no {kind} {name!r}; it has {known}", "model_not_found", param="model")

    async def load(self, served: ServedModel) -> None:
        """Load a model unless it is loaded. A caller that is cancelled does not stop the loading."""
        if served.model is not None:
            return
        if served.loading is None:
            served.loading = asyncio.create_task(self._load(served))
            served.loading.add_done_callback(lambda task: _forget(served, task))
        await asyncio.shield(served.loading)

    @asynccontextmanager
    async def use(self, served: ServedModel) -> AsyncIterator[Any]:
        """Hold a model for the `with` block, loaded if necessary; it is not unloaded meanwhile.

        Raises:
            Refusal: It is still being loaded at start, or could not be loaded.
        """
        if served.model is None and not self.loads_on_demand:
            raise Refusal(503, f"{served.id} is being loaded", "not_ready", retry_after=2)
        served.users += 1
        try:
            while served.model is None:
                try:
                    await self.load(served)
                except (BGEError, OSError, ImportError) as error:
                    _logger.error("%s could not be loaded", served.id, exc_info=error)
                    message = f"{served.id} could not be loaded; the server's log says why"
                    raise Refusal(424, message, "model_failed") from error
            served.used_at = time.monotonic()
            yield served.model
        finally:
            served.users -= 1

    async def variant(self, served: ServedModel, instruction: str | None, dimensions: int | None) -> Embedder:
        """Return a loaded embedder with another query instruction or fewer dimensions. It shares the weights.

        Raises:
            InvalidInputError: The instruction or the dimensions don't fit the model.
        """
        embedder = cast("Embedder", served.model)
        if instruction is None and dimensions in (None, embedder.dimension):
            return embedder
        key = instruction, dimensions
        if key not in served.variants:
            from bge_integrations.core.loading import load_embedder

            made = await asyncio.to_thread(
                load_embedder,
                served.source,
                query_instruction=instruction,
                truncate_dim=dimensions,
                **self._load_settings(served),
            )
            if served.variants.setdefault(key, made) is not made:  # another request was faster
                made.close()
            while len(served.variants) > _VARIANTS:
                served.variants.popitem(last=False)[1].close()
        served.variants.move_to_end(key)
        return served.variants[key]

    def close(self) -> None:
        """Unload all models."""
        for served in self.models:
            served.close()

    async def _load(self, served: ServedModel) -> None:
        async with self._memory:
            size = await self._size(served)
            self._make_room(size)
            _logger.info("loading %s", served.id)
            served.model = await asyncio.to_thread(_load_model, served, self._load_settings(served))
            served.size = size
            _logger.info("loaded %s", served.id)

    def _make_room(self, size: int) -> None:
        """Unload the models that were not used for longest until `size` more bytes fit."""
        limit = self._settings.max_model_memory
        if limit is None:
            return
        loaded = sorted((m for m in self.models if m.model is not None), key=lambda model: model.used_at)
        used = sum(model.size for model in loaded)
        for model in loaded:
            if used + size <= limit:
                break
            if model.users == 0:
                _logger.info("unloading %s", model.id)
                model.close()
                used -= model.size
        if used + size > limit:
            advice = "raise --max-model-memory" if used == 0 else "try again later, or raise --max-model-memory"
            message = f"the model's {size} bytes do not fit beside the models in use; {advice}"
            raise Refusal(503, message, "no_memory", retry_after=5)

    def fits(self, served: ServedModel, size: int) -> bool:
        """Return whether a model of this size fits beside all that are loaded."""
        limit = self._settings.max_model_memory
        used = sum(model.size for model in self.models if model.model is not None and model is not served)
        return limit is None or used + size <= limit

    async def preload(self) -> None:
        """Load the models in their order, as many as fit; the rest are loaded when they are used."""
        for served in self.models:
            size = 0
            if self._settings.max_model_memory is not None:
                size = await self._size(served)
            if self.fits(served, size):
                await self.load(served)

    async def _size(self, served: ServedModel) -> int:
        """Return about how many bytes of memory the weights will take; downloads the model if necessary."""
        located: Future[Path] = Future()
        located.set_running_or_notify_cancel()
        # a daemon thread, because the process waits for those of `asyncio.to_thread` when it ends
        threading.Thread(target=settle, args=(located, _locate, served), name=_DOWNLOADING, daemon=True).start()
        return await asyncio.to_thread(_weights_size, await asyncio.wrap_future(located), self._settings)

    def _load_settings(self, served: ServedModel) -> dict[str, Any]:
        settings: dict[str, Any] = {"device": self._settings.device, "dtype": self._settings.dtype}
        if served.kind == "embedder":
            settings["max_length"] = self._settings.max_length
        return settings


def is_downloading() -> bool:
    """Return whether a model of any pool in this process is being downloaded."""
    return any(thread.name == _DOWNLOADING for thread in threading.enumerate())


def short_name(source: str) -> str:
    """Return the last part of a model's path or hub id."""
    return source.replace("\\", "/").rstrip("/").rpartition("/")[2] or source


def _names(source: str) -> list[str]:
    """Return the names of a model: the last part of its path or hub id, and all of a hub id."""
    short = short_name(source)
    is_hub_id = source.count("/") == 1 and not source.startswith((".", "/", "~")) and not os.path.isdir(source)
    return [source, short] if is_hub_id else [short]


def _forget(served: ServedModel, task: asyncio.Task[None]) -> None:
    served.loading = None
    if not task.cancelled():
        task.exception()  # the callers have it


def _load_model(served: ServedModel, settings: dict[str, Any]) -> Embedder | Reranker:
    from bge_integrations.core.loading import load_embedder, load_reranker  # takes seconds, so not at start

    return (load_embedder if served.kind == "embedder" else load_reranker)(served.source, **settings)


def _locate(served: ServedModel) -> Path:
    """Return the folder with most of a model's weights; downloads the model if necessary."""
    from bge_integrations.models.adapter import locate_base
    from bge_integrations.models.locating import locate

    _, folder = locate(served.source, served.kind)
    return locate_base(folder, served.kind) or folder


def _weights_size(folder: Path, settings: ServerSettings) -> int:
    """Return about how many bytes of memory the weights will take."""
    from bge_integrations.core.devices import resolve_devices, resolve_dtype
    from bge_integrations.models.checkpoint import read_config, weight_bytes

    devices = resolve_devices(settings.device)
    dtype = resolve_dtype(settings.dtype, devices[0])
    stored = read_config(folder).get("torch_dtype", "float32")
    return len(devices) * weight_bytes(folder) * _BYTES[dtype] // _BYTES.get(str(stored), 4)
