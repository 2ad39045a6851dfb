"""transformers' Trainer with our batches and checkpoints, and what watches its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bge_integrations.errors import NonFiniteError
from bge_integrations.spelling import spelled
from bge_integrations.training.batches import BatchPlan
from bge_integrations.training.interruption import Interruption

#: Makes a batch of what the dataset returns for visits, such as groups.
Collate = Callable[[list[Any]], dict[str, Any]]
#: The file of a checkpoint with the trained weights.
_WEIGHTS = "trained.safetensors"


class PlannedTrainer(Trainer):
    """transformers' Trainer with our batches, and checkpoints that have only what is trained."""

    def __init__(
        self, model: nn.Module, arguments: TrainingArguments, groups: Dataset[Any], plan: BatchPlan, collate: Collate
    ) -> None:
        super().__init__(model, arguments, data_collator=collate, train_dataset=groups)
        self._module = model
        self._groups = groups
        self._plan = plan
        self._collate = collate
        for callback in (ProgressCallback, PrinterCallback):  # they write to standard output
            self.remove_callback(callback)

    def continue_from(self, checkpoint: Path | None, updates: int) -> None:
        """Train from a checkpoint to the end. After the last update, the Trainer would make one more."""
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step < updates:
            self.train(resume_from_checkpoint=str(checkpoint))
        else:
            self._load_from_checkpoint(str(checkpoint))
            self.state = state

    def get_train_dataloader(self) -> DataLoader[Any]:
        # accelerate would share the batches out among the processes, but the plan has done that
        return _Loader(
            self._groups,
            batch_sampler=self._plan,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name for name, parameter in self._module.named_parameters() if parameter.requires_grad}
        buffers = {name for name, _ in self._module.named_buffers()}
        state = {name: tensor for name, tensor in self._module.state_dict().items() if name in trained | buffers}
        save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        self._module.load_state_dict(state, strict=False)


class _Loader(DataLoader[Any]):
    """A loader whose batches depend on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Watcher(TrainerCallback):
    """Shows progress, stops after a step when asked to, and ends a training whose loss is not a number."""

    def __init__(self, caught: Interruption, bar: Any) -> None:
        self._caught = caught
        self._bar = bar

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update()
        if _any_process(self._caught.requested, args):
            control.should_save = control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        self._bar.set_postfix(loss=f"{logs['loss']:.4g}", refresh=False)
        if not math.isfinite(logs["loss"]):
            raise NonFiniteError(
                f"the loss of step {state.global_step} is {logs['loss']}",
                advice=f"use {spelled('precision', 'bfloat16')} instead of float16, or lower "
                f"{spelled('learning_rate')}; the last checkpoint is kept",
            )


def _any_process(requested: bool, arguments: TrainingArguments) -> bool:
    """Return whether any process was asked to stop, so that all stop after the same step."""
    if arguments.world_size == 1:
        return requested
    flag = torch.tensor(int(requested), device=arguments.device)
    torch.distributed.all_reduce(flag)
    return bool(flag)
