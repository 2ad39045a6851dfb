"""Fine-tune, mine, teach, mix and pre-train BGE models, on transformers' Trainer and peft.

Importing this package loads none of them: the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.training.embedder import train_embedder
    from bge_integrations.training.fine_tuning import FineTuned, FineTuning, plan_fine_tuning
    from bge_integrations.training.gain import Gain, evaluation_data, measure_gain
    from bge_integrations.training.layouts import read_training_data
    from bge_integrations.training.mining import Mined, mine_negatives
    from bge_integrations.training.mixing import Mixed, mix
    from bge_integrations.training.mixing_weights import MixingWeights, weights_from
    from bge_integrations.training.pretraining import pretrain
    from bge_integrations.training.questions import clicked_questions, generated_questions
    from bge_integrations.training.reranker import train_reranker
    from bge_integrations.training.row_files import read_rows, write_rows
    from bge_integrations.training.rows import TrainingData, TrainingRow, TrainingRows
    from bge_integrations.training.run import Trained
    from bge_integrations.training.splitting import hold_out
    from bge_integrations.training.statistics import Statistics, statistics_of
    from bge_integrations.training.teaching import teacher_scores
    from bge_integrations.training.tokens import TokenCounter

_HOME = {
    "FineTuned": "bge_integrations.training.fine_tuning",
    "FineTuning": "bge_integrations.training.fine_tuning",
    "Gain": "bge_integrations.training.gain",
    "Mined": "bge_integrations.training.mining",
    "Mixed": "bge_integrations.training.mixing",
    "MixingWeights": "bge_integrations.training.mixing_weights",
    "Statistics": "bge_integrations.training.statistics",
    "TokenCounter": "bge_integrations.training.tokens",
    "Trained": "bge_integrations.training.run",
    "TrainingData": "bge_integrations.training.rows",
    "TrainingRow": "bge_integrations.training.rows",
    "TrainingRows": "bge_integrations.training.rows",
    "clicked_questions": "bge_integrations.training.questions",
    "evaluation_data": "bge_integrations.training.gain",
    "generated_questions": "bge_integrations.training.questions",
    "hold_out": "bge_integrations.training.splitting",
    "measure_gain": "bge_integrations.training.gain",
    "mine_negatives": "bge_integrations.training.mining",
    "mix": "bge_integrations.training.mixing",
    "plan_fine_tuning": "bge_integrations.training.fine_tuning",
    "pretrain": "bge_integrations.training.pretraining",
    "read_rows": "bge_integrations.training.row_files",
    "read_training_data": "bge_integrations.training.layouts",
    "statistics_of": "bge_integrations.training.statistics",
    "teacher_scores": "bge_integrations.training.teaching",
    "train_embedder": "bge_integrations.training.embedder",
    "train_reranker": "bge_integrations.training.reranker",
    "weights_from": "bge_integrations.training.mixing_weights",
    "write_rows": "bge_integrations.training.row_files",
}

__all__ = [
    "FineTuned",
    "FineTuning",
    "Gain",
    "Mined",
    "Mixed",
    "MixingWeights",
    "Statistics",
    "TokenCounter",
    "Trained",
    "TrainingData",
    "TrainingRow",
    "TrainingRows",
    "clicked_questions",
    "evaluation_data",
    "generated_questions",
    "hold_out",
    "measure_gain",
    "mine_negatives",
    "mix",
    "plan_fine_tuning",
    "pretrain",
    "read_rows",
    "read_training_data",
    "statistics_of",
    "teacher_scores",
    "train_embedder",
    "train_reranker",
    "weights_from",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
