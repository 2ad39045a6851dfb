"""What the LlamaIndex adapters have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bge_integrations.adapter_kit.lazy_model import HoldsModel


class Component(HoldsModel):
    """Holds a model, and takes back what its own `model_dump` gave."""

    if not TYPE_CHECKING:  # see HoldsModel

        def __init__(self, **settings: Any) -> None:
            settings.pop("class_name", None)  # model_dump puts it in
            super().__init__(**settings)
