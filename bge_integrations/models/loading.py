"""Load a checkpoint folder as a `Model`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from bge_integrations.catalog import FAMILIES
from bge_integrations.models.checkpoint import weight_bytes
from bge_integrations.models.clip_model import ClipModel
from bge_integrations.models.decoder_model import DecoderModel
from bge_integrations.models.encoder_model import EncoderModel
from bge_integrations.models.placement import Placement
from bge_integrations.models.visualized_model import VisualizedModel

if TYPE_CHECKING:
    from pathlib import Path

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import Backend, CpuKernels, Model

logger = logging.getLogger(__name__)


def load_model(
    folder: Path,
    family: Family,
    device: str,
    dtype: str,
    layers: int | None,
    kernels: CpuKernels,
    backend: Backend = "torch",
    base: Path | None = None,
) -> Model:
    """Load a checkpoint's model.

    Args:
        folder: The checkpoint, or a LoRA adapter.
        family: A supported family.
        device: "cpu" or "cuda:0".
        dtype: "float32", "bfloat16", "float16" or "int8".
        layers: Number of layers of a decoder to load; None loads all.
        kernels: The implementation of linears on the CPU; see `choose_cpu_kernels`.
        backend: The library that runs the model.
        base: The checkpoint that the adapter is merged into; None if `folder` is not an adapter.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json requires something that is not supported.
        OutOfMemoryError: The weights do not fit in memory.
    """
    load = _BACKENDS[backend]
    model = load(folder, family, device, dtype, layers, kernels, base)
    logger.info(
        "loaded %s: family %s, backend %s, device %s, dtype %s, %d bytes of weight files",
        folder,
        family,
        backend,
        device,
        dtype,
        weight_bytes(base or folder),
    )
    return model


def _load_torch(
    folder: Path,
    family: Family,
    device: str,
    dtype: str,
    layers: int | None,
    kernels: CpuKernels,
    base: Path | None,
) -> Model:
    traits = FAMILIES[family]
    placement = Placement(torch.device(device), dtype, kernels)
    if traits.backbone == "decoder":
        return DecoderModel(folder, traits.head, traits.is_causal, placement, layers, base)
    if traits.backbone == "visualized":
        return VisualizedModel(folder, placement)
    if traits.backbone == "clip":
        return ClipModel(folder, placement)
    return EncoderModel(folder, traits.head, placement, base)


#: The loading function of each backend, which imports its optional libraries when it is called.
_BACKENDS = {"torch": _load_torch}
