"""The base class of the LlamaIndex adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bge_integrations.adapter_kit import HoldsModel


class Component(HoldsModel):
    """A LlamaIndex component that holds a model and can be created from its own `model_dump()`."""

    if not TYPE_CHECKING:  # see HoldsModel

        def __init__(self, **settings: Any) -> None:
            settings.pop("class_name", None)  # added by model_dump
            super().__init__(**settings)


class EmbeddingComponent(Component):
    """A component that takes its model by position, too, as LlamaIndex's HuggingFaceEmbedding does."""

    if not TYPE_CHECKING:

        def __init__(self, model_name: Any = None, /, **settings: Any) -> None:
            if model_name is not None:
                if not settings.keys().isdisjoint({"model", "model_name"}):
                    raise TypeError(f"{type(self).__name__} got its model twice; pass it once")
                settings["model_name"] = model_name
            super().__init__(**settings)
