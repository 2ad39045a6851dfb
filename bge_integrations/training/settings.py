"""The settings that all trainers share, and their checks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from bge_integrations.errors import InvalidInputError
from bge_integrations.moved_arguments import raise_unknown
from bge_integrations.spelling import spelled
from bge_integrations.validation import check_choice, check_whole_number

Precision = Literal["float32", "bfloat16", "float16"]
S = TypeVar("S", bound="TrainingSettings")
#: Settings that don't change the result, so an interrupted training may go on with others.
_NEUTRAL = frozenset({"device", "checkpoint_steps", "resume", "show_progress", "cache_folder", "local_files_only"})


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a training runs; subclasses add what the kind of model needs.

    Attributes:
        epochs: How often each row is visited.
        max_steps: Stop after this many updates instead.
        batch_size: Queries per process and batch.
        accumulation_steps: Batches per update. It adds no in-batch negatives; `batch_size` does.
        group_size: Passages per query: one positive, the others negatives. A row that has fewer negatives repeats them.
        query_max_length, passage_max_length: Maximum number of tokens, special tokens included.
        learning_rate: The highest rate; None uses what suits the kind of model.
        warmup: The share of the updates in which the rate rises from 0. It then falls linearly to 0.
        weight_decay: AdamW's; biases and norms have none.
        max_gradient_norm: Gradients are scaled down to this norm.
        precision: "float32", "bfloat16" or "float16" (CUDA only); None uses bfloat16 if CUDA has it, else float32.
        gradient_checkpointing: Compute activations again in the backward pass: slower, with far less memory.
        lora: Train a LoRA adapter instead of all weights; None does so for decoders.
        lora_rank, lora_alpha, lora_dropout: The adapter's size, strength and dropout.
        merge_lora: Merge the adapter into the weights and write a whole model.
        length_grouped: Put rows of similar length into a batch, which saves padding.
        drop_last: Leave out an epoch's last batch if it is not full.
        seed: Determines the order of rows, the passages drawn and the dropout.
        device: "cpu" or "cuda"; None uses CUDA if it is available. CUDA_VISIBLE_DEVICES chooses the GPU.
        checkpoint_steps: Updates between two checkpoints, from which an interrupted training continues.
        resume: Continue an interrupted training to the same output; False starts again.
        show_progress: Show a progress bar, and the estimate before the start.
    """

    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    accumulation_steps: int = 1
    group_size: int = 8
    query_max_length: int = 512
    passage_max_length: int = 512
    learning_rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    precision: Precision | None = None
    gradient_checkpointing: bool = False
    lora: bool | None = None
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.1
    merge_lora: bool = False
    length_grouped: bool = False
    drop_last: bool = True
    seed: int = 42
    device: str | None = None
    checkpoint_steps: int = 500
    resume: bool = True
    show_progress: bool = False

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            InvalidInputError: A value is of the wrong type or out of range; it names the argument.
        """
        for name in ("batch_size", "accumulation_steps", "group_size", "lora_rank", "lora_alpha", "checkpoint_steps"):
            check_whole_number(getattr(self, name), name)
        for name in ("query_max_length", "passage_max_length"):
            check_whole_number(getattr(self, name), name, least=3)
        if self.max_steps is not None:
            check_whole_number(self.max_steps, "max_steps")
        check_whole_number(self.seed, "seed", least=0, most=2**32 - 1)
        check_number(self.epochs, "epochs", above=0)
        if self.learning_rate is not None:
            check_number(self.learning_rate, "learning_rate", above=0)
        check_number(self.max_gradient_norm, "max_gradient_norm", above=0)
        check_number(self.weight_decay, "weight_decay", least=0)
        check_number(self.warmup, "warmup", least=0, most=1)
        check_number(self.lora_dropout, "lora_dropout", least=0, most=1)
        for field in fields(self):
            if isinstance(field.default, bool):
                check_choice(getattr(self, field.name), field.name, (True, False))
        check_choice(self.lora, "lora", (None, True, False))
        check_choice(self.precision, "precision", (None, "float32", "bfloat16", "float16"))
        if self.merge_lora and self.lora is False:
            raise InvalidInputError(
                f"{spelled('merge_lora', True)} needs an adapter, and {spelled('lora', False)} trains none",
                argument="merge_lora",
                advice="leave one of them out",
            )

    def deciding(self) -> dict[str, Any]:
        """Return the settings that the result depends on, by name."""
        return {name: value for name, value in asdict(self).items() if name not in _NEUTRAL}


def settings_of(kind: type[S], given: Mapping[str, Any], function: str, without: Collection[str] = ()) -> S:
    """Return the settings that a function was called with.

    Args:
        kind: The class of the settings.
        given: The keywords of the call.
        function: The function's name for messages.
        without: Settings of the class that the function does not take.

    Raises:
        UnknownArgumentError: There is no such setting; the advice names similar ones.
        InvalidInputError: A value is invalid.
    """
    known = [field.name for field in fields(kind) if field.name not in without]
    for name in given:
        if name not in known:
            raise_unknown(name, function, known)
    return kind(**given)


def check_number(
    number: object, argument: str, *, above: float | None = None, least: float | None = None, most: float = math.inf
) -> None:
    """Raise InvalidInputError unless `number` is a finite number in the range."""
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if (
        is_number
        and (above is None or number > above)  # type: ignore[operator]
        and (least is None or number >= least)  # type: ignore[operator]
        and number <= most  # type: ignore[operator]
    ):
        return
    lower = f"above {above:g}" if above is not None else f"of at least {least:g}"
    upper = "" if math.isinf(most) else f" and at most {most:g}"
    raise InvalidInputError(f"{spelled(argument, number)} must be a number {lower}{upper}", argument=argument)
