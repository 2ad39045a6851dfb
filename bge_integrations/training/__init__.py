"""Fine-tune, mine, teach, mix and pre-train BGE models, on transformers' Trainer and peft.

Importing this package loads none of them: the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.training.embedder import train_embedder as train_embedder
    from bge_integrations.training.fine_tuning import FineTuned as FineTuned
    from bge_integrations.training.fine_tuning import FineTuning as FineTuning
    from bge_integrations.training.fine_tuning import plan_fine_tuning as plan_fine_tuning
    from bge_integrations.training.gain import Gain as Gain
    from bge_integrations.training.gain import evaluation_data as evaluation_data
    from bge_integrations.training.gain import measure_gain as measure_gain
    from bge_integrations.training.layouts import read_training_data as read_training_data
    from bge_integrations.training.mining import Mined as Mined
    from bge_integrations.training.mining import mine_negatives as mine_negatives
    from bge_integrations.training.mixing import Mixed as Mixed
    from bge_integrations.training.mixing import mix as mix
    from bge_integrations.training.mixing_weights import MixingWeights as MixingWeights
    from bge_integrations.training.mixing_weights import weights_from as weights_from
    from bge_integrations.training.pretraining import pretrain as pretrain
    from bge_integrations.training.questions import clicked_questions as clicked_questions
    from bge_integrations.training.questions import generated_questions as generated_questions
    from bge_integrations.training.reranker import train_reranker as train_reranker
    from bge_integrations.training.row_files import read_rows as read_rows
    from bge_integrations.training.row_files import write_rows as write_rows
    from bge_integrations.training.rows import TrainingData as TrainingData
    from bge_integrations.training.rows import TrainingRow as TrainingRow
    from bge_integrations.training.rows import TrainingRows as TrainingRows
    from bge_integrations.training.run import Trained as Trained
    from bge_integrations.training.splitting import hold_out as hold_out
    from bge_integrations.training.statistics import Statistics as Statistics
    from bge_integrations.training.statistics import statistics_of as statistics_of
    from bge_integrations.training.teaching import teacher_scores as teacher_scores
    from bge_integrations.training.tokens import TokenCounter as TokenCounter

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
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
