"""Fine-tune, mine, teach, mix and pre-train BGE models, on sentence-transformers, transformers and peft.

Importing this package loads none of them: the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.training.embedder import train_embedder
    from bge_integrations.training.pretraining import pretrain
    from bge_integrations.training.reranker import train_reranker
    from bge_integrations.training.rows import TrainingData, TrainingRow, TrainingRows, read_rows, write_rows
    from bge_integrations.training.run import Trained

_HOME = {
    "Trained": "bge_integrations.training.run",
    "TrainingData": "bge_integrations.training.rows",
    "TrainingRow": "bge_integrations.training.rows",
    "TrainingRows": "bge_integrations.training.rows",
    "pretrain": "bge_integrations.training.pretraining",
    "read_rows": "bge_integrations.training.rows",
    "train_embedder": "bge_integrations.training.embedder",
    "train_reranker": "bge_integrations.training.reranker",
    "write_rows": "bge_integrations.training.rows",
}

__all__ = [
    "Trained",
    "TrainingData",
    "TrainingRow",
    "TrainingRows",
    "pretrain",
    "read_rows",
    "train_embedder",
    "train_reranker",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
