"""Linear layers: torch's own, oneDNN's prepacked ones, and int8 ones."""

from __future__ import annotations

import logging
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F

from bge_integrations.errors import InvalidInputError
from bge_integrations.models.interface import CpuKernels
from bge_integrations.validation import check_choice

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.placement import Placement

#: The operation after a linear: nothing, an activation, or the addition or multiplication of another tensor.
Epilogue = Literal["none", "gelu", "silu", "add", "multiply"]

#: The environment variable that overrides the choice made for this processor.
CPU_KERNELS_VARIABLE = "BGE_CPU_KERNELS"
#: Rows of int8 weights that are converted at a time.
_INT8_BLOCK = 1024
#: (max rows, multiple): pad small batches to this multiple. A query has few rows, and padding costs it time.
_SMALL_STEPS = ((32, 2), (128, 8))
#: Pad larger batches to this multiple.
_LARGE_STEP = 64
#: float32 weights with fewer elements use torch's own linear: a oneDNN call would cost more than it saves.
_LEAST_ONEDNN = 1 << 17
_CPUINFO = Path("/proc/cpuinfo")

logger = logging.getLogger(__name__)


class Linear:
    """x @ weight.T + bias, then an epilogue, with torch's own linear.

    Args:
        weight: (out, in), on its device and in its dtype.
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(self(x))

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(self(x), inplace=True)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)

    def multiply(self, x: Tensor, factor: Tensor) -> Tensor:
        return self(x).mul_(factor)


class PrepackedLinear:
    """The same with oneDNN on the CPU: the weight is reordered once, and the epilogue is fused.

    The two operators are not part of torch's public API, so `linear` falls back to `Linear` if they do not work.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out

    def gelu(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "gelu", [], "none")
        return out

    def silu(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "swish", [], "")
        return out

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")
        return out

    def multiply(self, x: Tensor, factor: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factor, self.packed, self.bias, "mul")
        return out


class Int8Linear(Linear):
    """The same in int8 on the CPU, with a scale per output for the weights and a scale per row for x.

    With one scale for all of x, a row's output would depend on the other rows. About twice as fast as float32 if the
    processor multiplies 8-bit numbers (VNNI). The operator is not part of torch's public API.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        quantized, self.scale = quantize_rows_int8(weight)
        super().__init__(quantized.T, bias)

    def __call__(self, x: Tensor) -> Tensor:
        quantized, scale = quantize_rows_int8(x)
        product = torch._int_mm(quantized, self.weight)
        # reuse the product's memory: fresh pages for each step made it a fifth slower
        out = product.view(torch.float32).copy_(product).mul_(self.scale)
        scale = scale[:, None]
        return out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale, out=out)

    def gelu(self, x: Tensor) -> Tensor:
        return torch.ops.aten.gelu_(self(x))  # type: ignore[no-any-return]


class Int8WeightLinear(Linear):
    """The same with int8 weights and a scale per output, computed in the dtype of x.

    It saves memory, not time: each product converts the weights to the dtype of x, a block at a time.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self.weight = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        self.scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
        for rows in self._blocks():
            self.weight[rows], self.scale[rows] = quantize_rows_int8(weight[rows].float())

    def __call__(self, x: Tensor) -> Tensor:
        out = x.new_empty(len(x), len(self.weight))
        for rows in self._blocks():
            torch.mm(x, self.weight[rows].to(x.dtype).T, out=out[:, rows])
        out *= self.scale.to(x.dtype)
        return out if self.bias is None else out.add_(self.bias)

    def _blocks(self) -> list[slice]:
        return [slice(begin, begin + _INT8_BLOCK) for begin in range(0, len(self.weight), _INT8_BLOCK)]


def linear(
    weight: Tensor,
    bias: Tensor | None,
    placement: Placement,
    epilogue: Epilogue = "none",
    *,
    exact_inputs: bool = False,
) -> Linear | PrepackedLinear:
    """Return the linear for this placement.

    Args:
        weight: (out, in), in the placement's compute dtype and on its device.
        bias: (out,), or None.
        placement: Decides between int8, oneDNN and torch.
        epilogue: The operation that will follow the linear.
        exact_inputs: In int8, quantize only the weights, not the inputs.
    """
    if placement.dtype == "int8":
        return Int8WeightLinear(weight, bias) if exact_inputs else Int8Linear(weight, bias)
    on_onednn = placement.device.type == "cpu" and placement.kernels == "onednn"
    is_small = weight.dtype == torch.float32 and weight.numel() < _LEAST_ONEDNN
    if on_onednn and not is_small and onednn_works(weight.dtype):
        return PrepackedLinear(weight, bias)
    return Linear(weight, bias)


def pad_rows(x: Tensor) -> Tensor:
    """On the CPU, pad `x` (rows, width) with rows of zeros to one of a few numbers of rows.

    oneDNN keeps memory for each number of rows that it has seen: hundreds of megabytes for batches of all sizes.
    """
    if x.device.type != "cpu":
        return x
    step = next((step for most, step in _SMALL_STEPS if len(x) <= most), _LARGE_STEP)
    return F.pad(x, (0, 0, 0, -len(x) % step)) if len(x) % step else x


def quantize_rows_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x` (rows, width) as int8, with each row scaled to a maximum of 127, and the float32 scales (rows,)."""
    scale = torch.maximum(x.amax(1), -x.amin(1)).clamp_min_(1e-12).div_(127)
    return (x / scale[:, None]).round_().to(torch.int8), scale


def choose_cpu_kernels(requested: str | None = None) -> CpuKernels:
    """Return the kernels for CPU models: `requested`, else BGE_CPU_KERNELS, else those that suit the processor.

    The choice depends only on the processor, never on a timing, so results are identical in every process.

    Raises:
        InvalidInputError: The argument or the variable is not one of the choices, or oneDNN does not work here.
    """
    for source, value in (("cpu_kernels", requested), (CPU_KERNELS_VARIABLE, os.environ.get(CPU_KERNELS_VARIABLE))):
        if value is not None and not isinstance(value, str):
            raise InvalidInputError(f"{source}={value!r} must be a str", argument=source)
        if value:
            check_choice(value, source, get_args(CpuKernels))
            if value == "torch":
                return _logged("torch", f"set by {source}")
            if not _onednn_works_in_thread():
                raise InvalidInputError(f"{source}='onednn' does not work with this build of torch; use 'torch'")
            return _logged("onednn", f"set by {source}")
    if not _onednn_works_in_thread():
        return _logged("torch", "this build of torch lacks oneDNN's prepacked linears")
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return _logged(kernels_for(platform.machine(), _is_intel(), has_avx512), "chosen for this processor")


def kernels_for(machine: str, is_intel: bool, has_avx512: bool) -> CpuKernels:
    """Return the faster kernels for a processor, according to measurements.

    oneDNN's prepacked linears take 0.5 to 1.0 times as long as torch's own (MKL) on AMD Zen 4, and on Intel with
    AVX-512 (Sapphire Rapids, float32 and bfloat16). MKL is at its best on Intel processors without AVX-512. Other
    architectures were not measured, so they use torch's own.
    """
    is_x86 = machine.lower() in ("x86_64", "amd64")
    return "onednn" if is_x86 and (has_avx512 or not is_intel) else "torch"


def _onednn_works_in_thread() -> bool:
    """Run the check in a dedicated thread.

    A thread that has computed keeps OpenMP workers, which slow the scheduler's thread down, and hangs if it computes
    again after a fork. So it must not be the caller's thread.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(onednn_works, torch.float32).result()


@cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Return whether the two private operators exist, support this dtype on this CPU, and match torch's linear."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    values = torch.linspace(-1, 1, 32 * 48).view(32, 48).to(dtype)
    weight, bias, x, residual = values, values[:, 0].clone(), values[:16].flip(1), values[:16, :32].contiguous()
    plain = Linear(weight, bias)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    try:
        with torch.inference_mode():
            packed = PrepackedLinear(weight, bias)
            pairs = (
                (packed(x), plain(x)),
                (packed.gelu(x), plain.gelu(x)),
                (packed.silu(x), plain.silu(x)),
                (packed.add(x, residual), plain.add(x, residual)),
                (packed.multiply(x, residual), plain.multiply(x, residual)),
            )
            works = all(torch.allclose(ours, plain_out, rtol=tolerance, atol=tolerance) for ours, plain_out in pairs)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.info("oneDNN's prepacked linears do not support %s here (%s); torch's own are used", dtype, error)
        return False
    if not works:
        logger.info("oneDNN's prepacked linears are inexact in %s here; torch's own are used", dtype)
    return works


@cache
def _logged(kernels: CpuKernels, reason: str) -> CpuKernels:
    """Log a choice, once per process and reason."""
    logger.info("CPU kernels: %s (%s)", kernels, reason)
    return kernels


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in _CPUINFO.read_text()
    except OSError:  # not Linux
        return "GenuineIntel" in platform.processor()
