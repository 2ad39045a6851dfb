"""Run a training with transformers' Trainer: checkpoints, resuming, Ctrl-C, devices and processes, and the result."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bge_integrations.errors import InvalidInputError, OutOfMemoryError
from bge_integrations.models.memory import memory_errors
from bge_integrations.optional import needed_by
from bge_integrations.progress import progress_bar
from bge_integrations.spelling import spelled
from bge_integrations.training.batches import BatchPlan
from bge_integrations.training.estimate import estimate_training
from bge_integrations.training.groups import RowSet
from bge_integrations.training.interruption import interruption
from bge_integrations.training.settings import Precision, TrainingSettings
from bge_integrations.training.work_folder import WorkFolder

with needed_by(__name__, "bge-integrations[train]"):
    import accelerate  # noqa: F401  Trainer needs it
    import torch
    import torch.distributed
    from torch import nn
    from torch.utils.data import Dataset
    from transformers import TrainingArguments, set_seed

    from bge_integrations.training.trainer import Collate, PlannedTrainer, Watcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: The trained model.
        losses: The loss before each update, averaged over its batches and processes. A resumed training has all.
        seconds: How long this call trained.
    """

    folder: Path
    losses: tuple[float, ...]
    seconds: float


class TrainingRun:
    """A training to one output folder.

    Under torchrun or `accelerate launch`, each process makes one, and they train together.

    Args:
        output: The folder to write; it must not exist or be empty.
        settings: How to train.
        learning_rate: What the settings say, or the default of the kind of model.
        identity: What the result depends on besides the settings, such as digests of the data and the model.

    Attributes:
        precision: "float32", "bfloat16" or "float16".
        processes: How many processes train.

    Raises:
        InvalidInputError: The output exists, an interrupted training to it was another one, or there is no such device.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        settings: TrainingSettings,
        learning_rate: float,
        identity: Mapping[str, Any],
    ) -> None:
        self.settings = settings
        on_cpu, self.precision = device_and_precision(settings)
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        parts = {"precision": self.precision, "processes": self.processes}
        self._work = WorkFolder(output, {**settings.deciding(), **identity, **parts}, settings.resume)
        self._arguments = TrainingArguments(
            output_dir=str(self._work.path),
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation_steps,
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_gradient_norm,
            bf16=self.precision == "bfloat16",
            fp16=self.precision == "float16",
            seed=settings.seed,
            use_cpu=on_cpu,
            ddp_backend="gloo" if on_cpu and self.processes > 1 else None,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            dataloader_pin_memory=not on_cpu,
            remove_unused_columns=False,
            label_names=[],
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=settings.checkpoint_steps,
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
        )
        if self._arguments.n_gpu > 1:
            logger.info("training on one of %d GPUs; start with torchrun to use all", self._arguments.n_gpu)
            self._arguments._n_gpu = 1  # else Trainer would split each batch over them with DataParallel
        set_seed(settings.seed)  # for what is initialized at random before the Trainer exists

    def plan(self, row_sets: Sequence[RowSet], lengths: Sequence[int]) -> BatchPlan:
        """Return the batches of this process.

        Args:
            row_sets: The rows that may share a batch.
            lengths: The length of each row, used if the settings ask for length-grouped batches.

        Raises:
            InvalidInputError: There are too few rows for one batch.
        """
        return BatchPlan(
            row_sets,
            self.settings.seed,
            processes=self.processes,
            process=self._arguments.process_index,
            drop_last=self.settings.drop_last,
            lengths=lengths if self.settings.length_grouped else None,
        )

    def train(
        self,
        model: nn.Module,
        groups: Dataset[Any],
        plan: BatchPlan,
        collate: Collate,
        save: Callable[[Path], None],
        sequences_at_once: int | None = None,
    ) -> Trained:
        """Train, and write the result.

        Args:
            model: Its forward takes what `collate` returns and returns {"loss": a scalar}. What requires gradients is
                trained; only that and the buffers are in the checkpoints.
            groups: The data, by visit, such as `Groups`.
            plan: Which visits form a batch.
            collate: Makes a batch of groups. Tensors of token ids have names that end in `input_ids`.
            save: Writes the trained model to a folder; called by one process.
            sequences_at_once: How many sequences keep their activations at a time, for the estimate; None: all.

        Raises:
            KeyboardInterrupt: The user or the system stopped it; a checkpoint was saved, and the message says how to
                continue.
            NonFiniteError: The loss became NaN or infinite.
            OutOfMemoryError: A batch does not fit into memory.
        """
        settings, arguments = self.settings, self._arguments
        updates = settings.max_steps or math.ceil(settings.epochs * math.ceil(len(plan) / settings.accumulation_steps))
        arguments.warmup_steps = math.ceil(settings.warmup * updates)
        is_main = arguments.process_index == 0
        if is_main:
            batch = collate([groups[visit] for visit in next(iter(plan))])
            estimate = estimate_training(
                model,
                batch,
                self.precision,
                arguments.device,
                updates * settings.accumulation_steps,
                sequences_at_once,
                settings.gradient_checkpointing,
            )
            logger.info("%s", estimate)
            if settings.show_progress:
                print(estimate, file=sys.stderr)
        with self._work.opened() if is_main else nullcontext():
            self._wait()
            trainer = PlannedTrainer(model, arguments, groups, plan, collate)
            started = time.monotonic()
            self._train(trainer, updates)
            seconds = time.monotonic() - started
            if is_main:
                self._work.finish(save)
            self._wait()
        losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        return Trained(self._work.output, losses, seconds)

    def _train(self, trainer: PlannedTrainer, updates: int) -> None:
        """Make all updates, or what is left of them after the last checkpoint."""
        shows = self.settings.show_progress and self._arguments.process_index == 0
        with interruption() as caught, progress_bar(updates, "step", shows) as bar:
            trainer.add_callback(Watcher(caught, bar))
            try:
                with memory_errors():
                    trainer.continue_from(self._work.checkpoint(), updates)
            except OutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"training ran out of memory ({error.finding})",
                    advice=f"lower {spelled('batch_size')} or the maximum lengths, or pass "
                    f"{spelled('gradient_checkpointing', True)}",
                ) from error
        if trainer.state.global_step < updates:
            raise KeyboardInterrupt(
                f"step {trainer.state.global_step} of {updates} is saved in {self._work.path}; run the same command "
                "again to continue"
            )

    def _wait(self) -> None:
        """Wait for the other processes."""
        if self.processes > 1:
            torch.distributed.barrier()


def device_and_precision(settings: TrainingSettings) -> tuple[bool, Precision]:
    """Return whether to train on the CPU, and the precision.

    Raises:
        InvalidInputError: The device is neither the CPU nor CUDA, there is no CUDA device, or the CPU does not have the
            precision.
    """
    device = settings.device
    if device not in (None, "cpu", "cuda"):
        raise InvalidInputError(
            f"{spelled('device', device)} is not supported",
            argument="device",
            advice="use cpu or cuda; CUDA_VISIBLE_DEVICES chooses the GPU, and torchrun trains on several",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(
            "torch finds no CUDA device", argument="device", advice=f"use {spelled('device', 'cpu')}"
        )
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if on_cpu and settings.precision == "float16":
        raise InvalidInputError(
            f"{spelled('precision', 'float16')} needs CUDA", argument="precision", advice="use bfloat16 or float32"
        )
    default: Precision = "bfloat16" if not on_cpu and torch.cuda.is_bf16_supported() else "float32"
    return on_cpu, settings.precision or default
