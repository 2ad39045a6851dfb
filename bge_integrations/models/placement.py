"""The device, dtype and CPU kernels of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bge_integrations.models.interface import CpuKernels


@dataclass(frozen=True)
class Placement:
    """Where a model's tensors are and how they are computed.

    Attributes:
        device: The device of all tensors.
        dtype: "float32", "bfloat16", "float16" or "int8". With int8, only the linears are in 8 bits.
        kernels: The implementation of linears on the CPU; unused on other devices.
    """

    device: torch.device
    dtype: str
    kernels: CpuKernels

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of everything except the linears."""
        dtype: torch.dtype = torch.float32 if self.dtype == "int8" else getattr(torch, self.dtype)
        return dtype
