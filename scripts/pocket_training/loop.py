"""The training loop of embedder and reranker: optimiser, schedule, and a saved state to resume from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

SAVED_EVERY = 25
SMALLEST_RATE = 0.02


@dataclass(frozen=True)
class Schedule:
    """The number of steps, and the share of the full learning rate at each step.

    The rate warms up over 40 steps, decays linearly towards 0 at `horizon`, and decays to 0 over the last `cool_down`
    steps.
    """

    steps: int
    horizon: int
    cool_down: int

    def rate(self, step: int) -> float:
        end = min(1 - step / self.horizon, (self.steps - step) / self.cool_down)
        return min(1, (step + 1) / 40) * max(SMALLEST_RATE, end)


def train(
    name: str,
    model: nn.Module,
    groups: list[dict[str, Any]],
    schedule: Schedule,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    state_file: Path,
    progress: Progress,
) -> None:
    """Minimise `loss_of(step)`, which also returns figures to display, with AdamW over the parameter `groups`.

    The state is saved every 25 steps; a later call with the same arguments resumes from it.
    """
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rates.load_state_dict(state["schedule"])
        first = int(state["step"])
    task = progress.add_task(name, total=schedule.steps, completed=first)
    seen: list[dict[str, float]] = []
    for step in range(first, schedule.steps):
        loss, figures = loss_of(step)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        seen.append(figures)
        shown = ", ".join(f"{key} {np.mean([row[key] for row in seen[-SAVED_EVERY:]]):.3f}" for key in figures)
        progress.update(task, advance=1, description=f"{name}: {shown}")
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == schedule.steps:
            progress.console.print(f"{name}, step {step + 1}: {shown}")
            partial = state_file.with_suffix(".partial")
            torch.save(
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": rates.state_dict(),
                },
                partial,
            )
            partial.replace(state_file)
