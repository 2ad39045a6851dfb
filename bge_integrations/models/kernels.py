"""Linears and attention, as fast as the device has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from bge_integrations.errors import OutOfMemoryError

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.core.batch import PackedBatch

#: What follows a linear: nothing, GELU, or the addition of a residual.
Epilogue = Literal["none", "gelu", "add"]

_TRIAL_ROWS = (16, 256)
_TRIAL_ROUNDS = 6
_NEAR_A_TIE = 1.05
#: Of the prepacked linear: so many are a query or a few, where filling up would cost time.
_FEW_ROWS = 128


class Linear:
    """x @ weight.T + bias, then an epilogue, with torch's own linear.

    Args:
        weight: (out, in), on its device and in its dtype.
        bias: (out,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.gelu(self(x))
        return F.gelu(self(_filled(x)))[: len(x)]  # oneDNN's, too

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)


class PrepackedLinear:
    """The same on the CPU through oneDNN, with the weight laid out for it once and the epilogue fused.

    These two operators are not public API of torch, hence `linear` tries them first and falls back to `Linear`.
    oneDNN keeps memory for each number of rows it has met, up to gigabytes for batches of all sizes, hence the rows are
    filled up to one of a few sizes.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(_filled(x), self.packed, self.bias, "none", [], "")
        return out[: len(x)]

    def gelu(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(_filled(x), self.packed, self.bias, "gelu", [], "none")
        return out[: len(x)]

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            _filled(x), _filled(residual), self.packed, self.bias, "add"
        )
        return out[: len(x)]


def _filled(x: Tensor) -> Tensor:
    """`x` with rows of zeros behind it, up to a multiple of 8, or of 64 where there are many."""
    rows = len(x)
    return F.pad(x, (0, 0, 0, -rows % (8 if rows <= _FEW_ROWS else 64)))


def linear(weight: Tensor, bias: Tensor, epilogue: Epilogue = "none") -> Linear | PrepackedLinear:
    """The faster of the two for this shape on this machine, by a measurement of a few milliseconds made once."""
    if weight.device.type == "cpu" and prepacking_pays(weight.shape[0], weight.shape[1], weight.dtype, epilogue):
        return PrepackedLinear(weight, bias)
    return Linear(weight, bias)


@cache
def prepacking_pays(out_features: int, in_features: int, dtype: torch.dtype, epilogue: Epilogue) -> bool:
    """Whether the prepacked linear works here, agrees with torch's own, and is not clearly slower.

    Timed on the rows of a short query and of a small batch; near a tie prepacking wins, since its epilogue is fused.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator).to(dtype)
    bias = torch.randn(out_features, generator=generator).to(dtype)
    inputs = torch.randn(max(_TRIAL_ROWS), in_features, generator=generator).to(dtype)
    residual = torch.zeros(max(_TRIAL_ROWS), out_features, dtype=dtype)

    def apply(layer: Linear | PrepackedLinear, rows: int) -> Tensor:
        if epilogue == "gelu":
            return layer.gelu(inputs[:rows])
        return layer.add(inputs[:rows], residual[:rows]) if epilogue == "add" else layer(inputs[:rows])

    def seconds(layer: Linear | PrepackedLinear, rows: int) -> float:
        start = time.perf_counter()
        apply(layer, rows)
        return time.perf_counter() - start

    with torch.inference_mode():
        plain = Linear(weight, bias)
        try:
            packed = PrepackedLinear(weight, bias)
            expected, found = apply(plain, _TRIAL_ROWS[-1]), apply(packed, _TRIAL_ROWS[-1])
        except (AttributeError, NotImplementedError, RuntimeError):  # this build of torch has no such operator
            return False
        tolerance = 1e-4 if dtype == torch.float32 else 5e-2
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance * in_features**0.5):
            return False
        ratios = []
        for rows in _TRIAL_ROWS:
            rounds = [(seconds(plain, rows), seconds(packed, rows)) for _ in range(_TRIAL_ROUNDS)]
            ratios.append(min(p for _, p in rounds) / min(p for p, _ in rounds))
        return sum(ratios) / len(ratios) <= _NEAR_A_TIE


def attention(qkv: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Full attention of every token to the tokens of its own sequence.

    Args:
        qkv: (tokens, 3 * hidden): queries, keys and values side by side.
        batch: Where each sequence lies.
        heads: Number of attention heads.

    Returns:
        (tokens, hidden).
    """
    tokens, width = qkv.shape
    if qkv.device.type == "cuda" and qkv.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = qkv.view(tokens, 3, heads, -1).unbind(1)
        out = varlen_attn(q, k, v, batch.cumulative, batch.cumulative, batch.lengths[0], batch.lengths[0])
        assert isinstance(out, torch.Tensor)
        return out.reshape(tokens, width // 3)
    context = qkv.new_empty(tokens, width // 3)
    for run in batch.runs():
        q, k, v = qkv[run.start : run.end].view(run.count, run.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v)
        context[run.start : run.end].view(run.count, run.length, heads, -1).copy_(found.transpose(1, 2))
    return context


def attention_of_rows(qkv: Tensor, rows: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Attention of one token per sequence, `rows` (sequences,), to its sequence; (sequences, hidden).

    The last layer needs no more where only these tokens are read from it.
    """
    hidden = qkv.shape[1] // 3
    queries = qkv[rows, :hidden].view(len(rows), heads, 1, -1)
    context = qkv.new_empty(len(rows), hidden)
    done = 0
    for run in batch.runs():
        keys_values = qkv[run.start : run.end].view(run.count, run.length, 3, heads, -1)
        k, v = keys_values[:, :, 1].transpose(1, 2), keys_values[:, :, 2].transpose(1, 2)
        found = F.scaled_dot_product_attention(queries[done : done + run.count], k, v)
        context[done : done + run.count] = found.reshape(run.count, hidden)
        done += run.count
    return context


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory errors of any device into `OutOfMemoryError`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemoryError(str(error)) from error
        raise
