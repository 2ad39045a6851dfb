"""Write the finished checkpoint folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import XLMRobertaConfig


def write_checkpoint(folder: Path, model: nn.Module, config: XLMRobertaConfig, architecture: str) -> None:
    """Write config.json, and model.safetensors in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_diff_dict() | {"architectures": [architecture], "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)


def write_linear(file: Path, linear: nn.Linear) -> None:
    """Write a head as BGE-M3 stores it: a state dict of weight and bias."""
    torch.save({name: value.half().clone() for name, value in linear.state_dict().items()}, file)
