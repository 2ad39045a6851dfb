"""Training states (to go on after an interruption) and the finished checkpoint folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import XLMRobertaConfig


def save_state(file: Path, step: int, model: nn.Module, optimizer: Optimizer, schedule: LambdaLR) -> None:
    """Write everything that is needed to go on after `step`; the old state stays until the new one is complete."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)


def load_state(file: Path, model: nn.Module, optimizer: Optimizer, schedule: LambdaLR) -> int:
    """Restore a state if there is one; the step to go on with."""
    if not file.exists():
        return 0
    state: dict[str, Any] = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["step"])


def write_checkpoint(folder: Path, model: nn.Module, config: XLMRobertaConfig, architecture: str) -> None:
    """config.json and model.safetensors in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_diff_dict() | {"architectures": [architecture], "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)


def write_linear(file: Path, linear: nn.Linear) -> None:
    """A head as BGE-M3 stores it: a state dict of weight and bias."""
    torch.save({name: value.half().clone() for name, value in linear.state_dict().items()}, file)
