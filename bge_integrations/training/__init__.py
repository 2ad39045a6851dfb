"""Fine-tune BGE models on the trainers of transformers, accelerate and peft.

Importing this package loads neither torch nor a trainer: the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.training.embedder import train_embedder
    from bge_integrations.training.run import Trained

_HOME = {
    "Trained": "bge_integrations.training.run",
    "train_embedder": "bge_integrations.training.embedder",
}

__all__ = [
    "Trained",
    "train_embedder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
