"""A model that an adapter loads on first use, and that is not pickled with the adapter."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

Loaded = TypeVar("Loaded")


class LazyModel(Generic[Loaded]):
    """The embedder, view or reranker of an adapter, loaded on first use and again when the settings have changed.

    A copy starts with the loaded model and is independent from then on; a pickle contains no model. All LazyModels
    compare equal, so that two adapters are equal if their settings are.

    Args:
        load: `load_dense`, `load_sparse`, `load_embedder` or `load_reranker`; takes the settings as keyword arguments.
    """

    def __init__(self, load: Callable[..., Loaded]) -> None:
        self._load = load
        self._loaded: tuple[dict[str, Any], Loaded] | None = None

    def get(self, settings: dict[str, Any]) -> Loaded:
        """Return the model for these settings."""
        loaded = self._loaded
        if loaded is None or loaded[0] != settings:
            loaded = self._loaded = settings, self._load(**settings)
        return loaded[1]

    async def aget(self, settings: dict[str, Any]) -> Loaded:
        """Return the model for these settings without blocking the event loop."""
        loaded = self._loaded
        if loaded is None or loaded[0] != settings:
            return await asyncio.to_thread(self.get, settings)
        return loaded[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyModel, (self._load,)

    def __copy__(self) -> LazyModel[Loaded]:
        twin = LazyModel(self._load)
        twin._loaded = self._loaded
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyModel)

    __hash__ = None  # type: ignore[assignment]


class HoldsModel:
    """A mixin for pydantic adapters: loads the model when the object is created, and gives each copy its own LazyModel.

    The adapter declares the `LazyModel` as its private attribute `_model`, and in `_arguments` maps the arguments for
    loading to its fields.
    """

    _model: Any
    #: {argument of the loading function: field of the adapter}; see `arguments_of`.
    _arguments: ClassVar[Mapping[str, str]]

    if not TYPE_CHECKING:  # type checkers see the fields as keyword arguments, as pydantic declares them

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self._loaded()  # outside validation, which would wrap the core's errors

    def _settings(self) -> dict[str, Any]:
        """Return copies of the arguments for loading, so that a list changed in place is noticed."""
        return {argument: copy.deepcopy(getattr(self, field)) for argument, field in self._arguments.items()}

    def _loaded(self) -> Any:
        """Return the model for the current settings."""
        return self._model.get(self._settings())

    async def _aloaded(self) -> Any:
        """Return the model for the current settings without blocking the event loop."""
        return await self._model.aget(self._settings())

    def __copy__(self) -> Self:
        twin: Self = super().__copy__()  # type: ignore[misc]
        twin._model = copy.copy(self._model)  # pydantic would share the original's
        return twin


def arguments_of(settings: type[BaseModel], **own_names: str) -> dict[str, str]:
    """Return the mapping for `HoldsModel._arguments`: all fields of `settings`, and the adapter's own fields.

    Args:
        settings: One of the classes in `adapter_kit.settings`.
        own_names: The fields for other arguments, such as model="model_name".
    """
    return {**own_names, **{name: name for name in settings.model_fields}}
