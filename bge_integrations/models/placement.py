"""Where a model's tensors lie and how they are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bge_integrations.models.linear import CpuKernels


@dataclass(frozen=True)
class Placement:
    """A device, a dtype and the kernels of the CPU's linears.

    Attributes:
        device: Holds all tensors.
        dtype: "float32", "bfloat16", "float16" or "int8". In int8 only the linears are in 8 bits.
        kernels: Used on the CPU only.
    """

    device: torch.device
    dtype: str
    kernels: CpuKernels

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of everything but the linears."""
        dtype: torch.dtype = torch.float32 if self.dtype == "int8" else getattr(torch, self.dtype)
        return dtype
