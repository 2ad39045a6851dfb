"""How much memory and time a training will take, computed before it starts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bge_integrations.models.memory import free_memory, gigabytes

#: Bytes per trained weight besides the weight: its gradient and AdamW's two moments, in float32.
_TRAINED = 12
#: Floating-point operations per weight and token: 2 forward and 4 backward, and 2 if the forward pass runs twice.
_FORWARD, _BACKWARD = 2, 4
#: A training reaches about this share of the speed of a large matrix product.
_EFFICIENCY = 0.5
#: Rows and columns of the matrices that are multiplied to measure the device, and how often.
_PROBE, _ROUNDS = 1024, 4


@dataclass(frozen=True)
class Estimate:
    """What a training will take, roughly.

    Attributes:
        parameters, trained: How many weights the model has, and how many of them are trained.
        tokens: Tokens per batch and process, padding included.
        memory: Bytes for weights, gradients, optimizer and activations.
        free: Bytes that are free now; None if unknown.
        seconds: Seconds for all batches.
    """

    parameters: int
    trained: int
    tokens: int
    memory: int
    free: int | None
    seconds: float

    def __str__(self) -> str:
        free = "" if self.free is None else f" ({gigabytes(self.free)} are free)"
        duration = f"{self.seconds / 3600:.1f} hours" if self.seconds > 5400 else f"{self.seconds / 60:.1f} minutes"
        return (
            f"training {self.trained:,} of {self.parameters:,} weights on {self.tokens:,} tokens a batch; estimated: "
            f"{gigabytes(self.memory)} of memory{free}, {duration}"
        )


def estimate_training(
    model: nn.Module,
    batch: Mapping[str, Any],
    precision: str,
    device: torch.device,
    batches: int,
    sequences_at_once: int | None,
    gradient_checkpointing: bool,
) -> Estimate:
    """Estimate the memory and time of a training from one of its batches.

    Args:
        model: Has the attribute `backbone`, a transformers model.
        batch: What the model's forward takes; tensors of token ids have names that end in `input_ids`.
        precision: Of the activations: "float32", "bfloat16" or "float16".
        device: Where it is trained.
        batches: How many batches it takes.
        sequences_at_once: How many sequences keep their activations at a time; None: all.
        gradient_checkpointing: Whether layers compute their activations again in the backward pass.
    """
    ids = [tensor for name, tensor in batch.items() if name.endswith("input_ids")]
    tokens = sum(tensor.numel() for tensor in ids)
    kept = tokens if sequences_at_once is None else max(t[:sequences_at_once].numel() for t in ids)
    per_token = _activations_per_token(model.backbone.config, gradient_checkpointing)  # type: ignore[union-attr]
    recomputes = sequences_at_once is not None or gradient_checkpointing
    weights = list(model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    size = sum(weight.numel() * weight.element_size() for weight in weights) + trained * _TRAINED
    activations = kept * per_token * (4 if precision == "float32" else 2)
    embeddings = sum(e.weight.numel() for e in model.modules() if isinstance(e, nn.Embedding))
    layers = sum(weight.numel() for weight in weights) - embeddings
    operations = tokens * layers * (_FORWARD * (2 if recomputes else 1) + _BACKWARD)
    return Estimate(
        parameters=sum(weight.numel() for weight in weights),
        trained=trained,
        tokens=tokens,
        memory=size + activations,
        free=free_memory(device),
        seconds=batches * operations / (_speed(precision, device) * _EFFICIENCY),
    )


def _activations_per_token(config: Any, gradient_checkpointing: bool) -> int:
    """Return how many numbers the layers keep for the backward pass.

    A layer keeps about ten vectors of the hidden size and two or three of the intermediate size. With gradient
    checkpointing, it keeps its input, and one layer at a time keeps all.
    """
    layer = 10 * config.hidden_size + 3 * config.intermediate_size
    if gradient_checkpointing:
        return int(config.num_hidden_layers * config.hidden_size + layer)
    return int(config.num_hidden_layers * layer)


def _speed(precision: str, device: torch.device) -> float:
    """Measure floating-point operations per second."""
    dtype: torch.dtype = getattr(torch, precision)
    matrix = torch.ones(_PROBE, _PROBE, dtype=dtype, device=device)
    matrix @ matrix  # the first one loads kernels
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        product = matrix @ matrix
    float(product[0, 0])  # waits for the device
    return 2 * _PROBE**3 * _ROUNDS / max(time.perf_counter() - started, 1e-9)
