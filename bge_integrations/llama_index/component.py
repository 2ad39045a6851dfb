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
