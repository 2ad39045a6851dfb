"""What an adapter keeps of the core: a loaded model that never travels with the adapter."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

C = TypeVar("C")


class Handle(Generic[C]):
    """An embedder or reranker for an adapter's settings.

    It is loaded when first asked for, and anew when the settings have changed. A copy begins with what is loaded and
    goes its own way, a pickle is empty, and any two are equal: only the adapter's settings tell adapters apart.

    Args:
        load: `load_embedder` or `load_reranker`; called with the settings as keyword arguments.
    """

    def __init__(self, load: Callable[..., C]) -> None:
        self._load = load
        self._loaded: tuple[dict[str, Any], C] | None = None

    def get(self, settings: dict[str, Any]) -> C:
        """The core object for these settings."""
        loaded = self._loaded
        if loaded is None or loaded[0] != settings:
            loaded = self._loaded = settings, self._load(**settings)
        return loaded[1]

    async def aget(self, settings: dict[str, Any]) -> C:
        """As `get`; loading does not block the event loop."""
        loaded = self._loaded
        if loaded is None or loaded[0] != settings:
            return await asyncio.to_thread(self.get, settings)
        return loaded[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Handle, (self._load,)

    def __copy__(self) -> Handle[C]:
        twin = Handle(self._load)
        twin._loaded = self._loaded
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle)

    __hash__ = None  # type: ignore[assignment]


class HoldsModel:
    """For pydantic adapters: the model is loaded when the object is made, and copies have handles of their own.

    The adapter has the handle as `_handle`, and gives what it is asked with as `_settings()`.
    """

    _handle: Any

    if not TYPE_CHECKING:  # type checkers see the fields as keyword arguments, as pydantic declares them

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self._handle.get(self._settings())  # outside validation, which would wrap the core's errors

    def __copy__(self) -> Self:
        twin: Self = super().__copy__()  # type: ignore[misc]
        twin._handle = copy.copy(self._handle)  # pydantic would let both share one
        return twin
