"""Fine-tune, mine, teach, mix and pre-train BGE models, on sentence-transformers, transformers and peft.

Importing this package loads none of them: the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.training.mining import Mined, mine_negatives
    from bge_integrations.training.mixing import Mixed, mix
    from bge_integrations.training.mixing_weights import MixingWeights, weights_from
    from bge_integrations.training.rows import TrainingData, TrainingRow, TrainingRows, read_rows, write_rows
    from bge_integrations.training.teaching import teacher_scores

_HOME = {
    "Mined": "bge_integrations.training.mining",
    "Mixed": "bge_integrations.training.mixing",
    "MixingWeights": "bge_integrations.training.mixing_weights",
    "TrainingData": "bge_integrations.training.rows",
    "TrainingRow": "bge_integrations.training.rows",
    "TrainingRows": "bge_integrations.training.rows",
    "mine_negatives": "bge_integrations.training.mining",
    "mix": "bge_integrations.training.mixing",
    "read_rows": "bge_integrations.training.rows",
    "teacher_scores": "bge_integrations.training.teaching",
    "weights_from": "bge_integrations.training.mixing_weights",
    "write_rows": "bge_integrations.training.rows",
}

__all__ = [
    "Mined",
    "Mixed",
    "MixingWeights",
    "TrainingData",
    "TrainingRow",
    "TrainingRows",
    "mine_negatives",
    "mix",
    "read_rows",
    "teacher_scores",
    "weights_from",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
