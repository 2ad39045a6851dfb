"""The settings of an embedder's training, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.settings import TrainingSettings, check_number
from bge_integrations.validation import check_choice, check_whole_number

if TYPE_CHECKING:
    from bge_integrations.catalog import Family, Pooling

#: How a teacher's scores of a query's passages count; see `embedder_losses`.
Distillation = Literal["kl_div", "m3_kd_loss"]


@dataclass(frozen=True, kw_only=True)
class EmbedderSettings(TrainingSettings):
    """The settings of `train_embedder` besides those of all trainings.

    Attributes:
        temperature: Scores are divided by it.
        normalize: Whether vectors have unit length.
        in_batch_negatives: Whether the passages of the batch's other queries are negatives too.
        cross_device: Whether the passages of the other processes are negatives too.
        sub_batch_size: Sequences encoded at a time, for batches that don't fit into memory; the loss stays the same.
        distillation: How teacher scores count, "kl_div" or "m3_kd_loss"; None ignores them.
        matryoshka_dims: Train vectors that can be cut to these sizes.
        shuffle_ratio: The share of positives of more than 100 characters that are cut into three parts and put together
            in another order, drawn anew each time a row is used.
        same_dataset: Fill each batch with rows of one file.
        small_threshold, drop_threshold: With `same_dataset`, files with fewer rows than `small_threshold` are one data
            set per folder, which is left out if it has fewer than `drop_threshold`.
        max_examples: For bge-en-icl, the most in-context examples before a query; they are other rows of its batch, and
            take what `query_max_length` has beyond 512 tokens.
        unified: Train bge-m3's sparse and multi-vector heads too; None does so if the model has them.
        self_distillation: Let the sum of bge-m3's three scores teach each of them.
        self_distillation_start: Self-distillation begins after this many batches.
        fix_encoder: Train only bge-m3's heads.
        multi_vector_dim: Size of the multi-vectors, if the model is to get new heads (`family="m3"`).
        family, pooling, query_instruction, passage_instruction, task: See `load_embedder`.
        revision, cache_folder, local_files_only: See `load_embedder`.
    """

    temperature: float = 0.02
    normalize: bool = True
    in_batch_negatives: bool = True
    cross_device: bool = False
    sub_batch_size: int | None = None
    distillation: Distillation | None = None
    matryoshka_dims: Sequence[int] = ()
    shuffle_ratio: float = 0.0
    same_dataset: bool = False
    small_threshold: int = 0
    drop_threshold: int = 0
    max_examples: int = 5
    unified: bool | None = None
    self_distillation: bool = True
    self_distillation_start: int = 0
    fix_encoder: bool = False
    multi_vector_dim: int | None = None
    family: Family | None = None
    pooling: Pooling | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    task: str | None = None
    revision: str | None = None
    cache_folder: str | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        """Check each value; see `TrainingSettings`."""
        super().__post_init__()
        check_number(self.temperature, "temperature", above=0)
        check_choice(self.unified, "unified", (None, True, False))
        check_number(self.shuffle_ratio, "shuffle_ratio", least=0, most=1)
        check_choice(self.distillation, "distillation", (None, *get_args(Distillation)))
        for name in ("sub_batch_size", "multi_vector_dim"):
            if getattr(self, name) is not None:
                check_whole_number(getattr(self, name), name)
        for name in ("max_examples", "self_distillation_start", "small_threshold", "drop_threshold"):
            check_whole_number(getattr(self, name), name, least=0)
        for dim in self.matryoshka_dims:
            check_whole_number(dim, "matryoshka_dims")
        if self.cross_device and not self.in_batch_negatives:
            raise InvalidInputError(
                f"{spelled('cross_device', True)} compares queries with the passages of other queries, and "
                f"{spelled('in_batch_negatives', False)} does not",
                argument="cross_device",
                advice="leave one of them out",
            )
