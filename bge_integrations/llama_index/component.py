"""What the LlamaIndex adapters share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bge_integrations.adapter_kit import HoldsModel


class Component(HoldsModel):
    """Holds a model, and accepts what its own `model_dump` returned."""

    if not TYPE_CHECKING:  # see HoldsModel

        def __init__(self, **settings: Any) -> None:
            settings.pop("class_name", None)  # model_dump puts it in
            super().__init__(**settings)
