"""What an application serves: its models, its indexes, its metrics, and whether it is ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bge_integrations.core import runtime
from bge_integrations.serving.metrics import Metrics
from bge_integrations.serving.pool import ModelPool, short_name
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from bge_integrations.index import M3Index
    from bge_integrations.serving.settings import ServerSettings

_logger = logging.getLogger(__name__)


class Service:
    """The state of an application.

    Attributes:
        settings: The settings.
        models: The models.
        indexes: The open indexes by name.
        metrics: The metrics.
        is_ready: Whether everything that is loaded at start is loaded, and the server is not stopping.
        on_failure: Called if something can't be loaded at start; `bge serve` then ends.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.models = ModelPool(settings)
        self.indexes: dict[str, M3Index] = {}
        self.metrics = Metrics()
        self.is_ready = False
        self.on_failure: Callable[[Exception], None] = lambda _: None
        self._starting: asyncio.Task[None] | None = None
        self._policy_before: runtime.Policy | None = None

    @property
    def uses_gpu(self) -> bool:
        """Whether a loaded model is on a GPU."""
        return any(served.model is not None and "cuda" in served.model.device for served in self.models.models)

    def start(self) -> None:
        """Begin to load the models and indexes in the background, unless it has begun."""
        if self._starting is not None:
            return
        settings = self.settings
        changes: dict[str, Any] = {"when_full": "refuse", "max_queued_tokens": settings.max_queued_tokens}
        if settings.max_batch_tokens is not None:
            changes |= dict.fromkeys(("cpu_batch_tokens", "cuda_batch_tokens"), settings.max_batch_tokens)
        self._policy_before = runtime.configure(**changes)
        runtime.batch_listeners.append(self.metrics.count_batch)
        self._starting = asyncio.create_task(self._start())

    async def stop(self) -> None:
        """Unload everything."""
        self.is_ready = False
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        for index in self.indexes.values():
            await index.aclose()
        self.indexes.clear()
        self.models.close()
        if self._policy_before is not None:
            runtime.batch_listeners.remove(self.metrics.count_batch)
            runtime.configure(**vars(self._policy_before))
        self._starting = self._policy_before = None

    def index(self, name: str) -> M3Index:
        """Return the open index with this name.

        Raises:
            Refusal: There is none, or it is not open yet.
        """
        if name in self.indexes:
            return self.indexes[name]
        if name in self.settings.indexes:
            raise Refusal(503, f"the index {name!r} is being opened", "not_ready", retry_after=2)
        known = ", ".join(self.settings.indexes) or "none"
        raise Refusal(404, f"this server has no index {name!r}; it has {known}", "index_not_found")

    def rename(self, message: str) -> str:
        """Replace the folders and URLs of models and indexes in a message by their names."""
        named = [(served.source, served.id) for served in self.models.models]
        named += [(location.partition("#")[0], name) for name, location in self.settings.indexes.items()]
        named += [(index.embedder.name, short_name(index.embedder.name)) for index in self.indexes.values()]
        for location, name in sorted(named, key=lambda pair: -len(pair[0])):
            if "/" in location or "\\" in location:
                message = message.replace(location, name)
        return message

    async def _start(self) -> None:
        try:
            if self.settings.preload:
                await self.models.preload()
            self.models.loads_on_demand = True
            for name, location in self.settings.indexes.items():
                self.indexes[name] = await asyncio.to_thread(self._open_index, location)
                _logger.info("opened the index %s", name)
        except Exception as error:
            _logger.error("the server can't start: %s", error)
            self.on_failure(error)
            return
        self.is_ready = True
        _logger.info("ready")

    def _open_index(self, location: str) -> M3Index:
        from bge_integrations.index import M3Index

        settings = self.settings
        place, _, collection = location.partition("#")
        options: dict[str, Any] = {"collection": collection} if collection else {}
        arguments: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype, **options}
        arguments |= {"api_key": settings.qdrant_api_key, "read_only": settings.read_only}
        if settings.create_indexes and not settings.read_only:
            from bge_integrations.errors import IndexNotFoundError

            try:
                return M3Index.open(place, create=False, **arguments)
            except IndexNotFoundError:
                model = settings.models[0] if settings.models else None
                return M3Index.open(place, model, **arguments)
        return M3Index.open(place, create=False, **arguments)
