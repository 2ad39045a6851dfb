"""The settings of `train_reranker`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.settings import TrainingSettings
from bge_integrations.validation import check_choice, check_text

if TYPE_CHECKING:
    from bge_integrations.catalog import Family

Distillation = Literal["kl_div"]


@dataclass(frozen=True, kw_only=True)
class RerankerSettings(TrainingSettings):
    """How a reranker is trained: the settings of every training, and these.

    Attributes:
        group_size: Passages per query: one positive, the others negatives. A row with fewer negatives makes a smaller
            group.
        query_max_length, passage_max_length: A query is truncated to `query_max_length` tokens, and the pair to the sum
            of both, which is what `Reranker.score` takes as `query_max_length` and `max_length`. An LLM reranker's
            prompt comes on top.
        distillation: "kl_div" also learns from the rows' pos_scores and neg_scores, which are a teacher's logits: the
            cross-entropy with their softmax is added. None ignores them.
        prompt: For LLM rerankers: the question after each pair whose row has no `prompt`; None uses the model's own.
        family: For your own LLM reranker, or a language model that is to become one: "llm_reranker" or
            "layerwise_reranker".
        revision, cache_folder, local_files_only: See `load_reranker`.
    """

    query_max_length: int = 128
    passage_max_length: int = 384
    distillation: Distillation | None = None
    prompt: str | None = None
    family: Family | None = None
    revision: str | None = None
    cache_folder: str | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        """Check each value; see `TrainingSettings`."""
        super().__post_init__()
        check_choice(self.distillation, "distillation", (None, *get_args(Distillation)))
        if self.prompt is not None:
            check_text(self.prompt, "prompt")
        if self.group_size < 2:
            raise InvalidInputError(
                f"a reranker learns to tell a positive from negatives, so {spelled('group_size')} must be at least 2",
                argument="group_size",
            )
