"""Linears and attention, as fast as the device has them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from bge_integrations.errors import OutOfMemoryError

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.batch import PackedBatch, Run

#: What follows a linear: nothing, GELU, or the addition of a residual.
Epilogue = Literal["none", "gelu", "add"]

_TRIAL_ROWS = (16, 256)
_TRIAL_ROUNDS = 6
_NEAR_A_TIE = 1.05
#: Attention that torch has no kernel for is computed for so many tokens at a time.
_QUERY_BLOCK = 512
#: Rows of 8-bit weights that are widened at a time.
_INT8_BLOCK = 1024
#: Up to how many rows they are filled up to a multiple of what: a query has few, and filling costs it time.
_SMALL_STEPS = ((32, 2), (128, 8))


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

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)


class PrepackedLinear:
    """The same on the CPU through oneDNN, with the weight laid out for it once and the epilogue fused.

    These two operators are not public API of torch, hence `linear` tries them first and falls back to `Linear`.
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

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")
        return out


def fill_rows(x: Tensor) -> Tensor:
    """On the CPU, `x` (rows, width) with rows of zeros behind it, up to one of few numbers of rows.

    oneDNN keeps memory for each number of rows that it meets: hundreds of megabytes for batches of all sizes.
    """
    if x.device.type != "cpu":
        return x
    step = next((step for most, step in _SMALL_STEPS if len(x) <= most), 64)
    return F.pad(x, (0, 0, 0, -len(x) % step)) if len(x) % step else x


class Int8Linear(Linear):
    """The same on the CPU in 8 bits: weights with a scale for each output, x with one for each row.

    So what comes out does not depend on the other rows, as it would with one scale for all of x. About twice as fast as
    float32 where the processor multiplies 8-bit numbers (VNNI). The operator is not public API of torch.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        quantized, self.scale = in_eight_bits(weight)
        super().__init__(quantized.T, bias)

    def __call__(self, x: Tensor) -> Tensor:
        quantized, scale = in_eight_bits(x)
        product = torch._int_mm(quantized, self.weight)
        # in the memory of the product: fresh pages for each step made it a fifth slower
        out = product.view(torch.float32).copy_(product).mul_(self.scale)
        scale = scale[:, None]
        return out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale, out=out)

    def gelu(self, x: Tensor) -> Tensor:
        return torch.ops.aten.gelu_(self(x))  # type: ignore[no-any-return]


class Int8WeightLinear(Linear):
    """The same with weights of 8 bits, a scale for each output; computed in the dtype of x.

    For memory, not for speed: the weights are widened again for each product, a block at a time.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self.weight = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        self.scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
        for rows in self._blocks():
            self.weight[rows], self.scale[rows] = in_eight_bits(weight[rows].float())

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
    dtype: torch.dtype,
    epilogue: Epilogue = "none",
    *,
    exact_inputs: bool = False,
) -> Linear | PrepackedLinear:
    """The linear of a model of that dtype: in 8 bits, or the faster of the two others for this shape on this machine.

    Which of these that is tells a measurement of a few milliseconds, made once. `exact_inputs`: of 8 bits, only the
    weights are.
    """
    if dtype == torch.int8:
        return Int8WeightLinear(weight, bias) if exact_inputs else Int8Linear(weight, bias)
    if weight.device.type == "cpu" and prepacking_pays(weight.shape[0], weight.shape[1], weight.dtype, epilogue):
        return PrepackedLinear(weight, bias)
    return Linear(weight, bias)


def in_eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` (rows, width) as int8, the largest of a row being 127, and the float32 scale of each row (rows,)."""
    scale = torch.maximum(x.amax(1), -x.amin(1)).clamp_min_(1e-12).div_(127)
    return (x / scale[:, None]).round_().to(torch.int8), scale


def computed_dtype(dtype: torch.dtype) -> torch.dtype:
    """What all but the linears of a model of that dtype is computed in."""
    return torch.float32 if dtype == torch.int8 else dtype


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
        qkv: (tokens, 3 * hidden): queries, keys and values side by side; on the CPU, rows that fill up may follow.
        batch: Where each sequence lies.
        heads: Number of attention heads.

    Returns:
        (tokens, hidden), and as many rows of zeros as `qkv` is filled up with.
    """
    tokens, width = qkv.shape
    if qkv.device.type == "cuda" and qkv.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = qkv.view(tokens, 3, heads, -1).unbind(1)
        out = varlen_attn(q, k, v, batch.cumulative, batch.cumulative, batch.lengths[0], batch.lengths[0])
        assert isinstance(out, torch.Tensor)
        return out.reshape(tokens, width // 3)
    exact = qkv.float()  # torch's kernel of CPUs is slower in bfloat16: by a tenth to a fifth
    found = []
    for run in batch.runs:
        q, k, v = exact[run.start : run.end].view(run.count, run.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v)
        found.append(context.transpose(1, 2).reshape(run.count * run.length, width // 3))
    if filling := tokens - len(batch.ids):
        found.append(exact.new_zeros(filling, width // 3))
    return (torch.cat(found) if len(found) > 1 else found[0]).to(qkv.dtype)


def attention_of_rows(qkv: Tensor, rows: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Attention of one token per sequence, `rows` (sequences,), to its sequence; (sequences, hidden).

    The last layer needs no more where only these tokens are read from it.
    """
    hidden = qkv.shape[1] // 3
    queries = qkv[rows, :hidden].view(len(rows), heads, 1, -1)
    context = qkv.new_empty(len(rows), hidden)
    done = 0
    for run in batch.runs:
        keys_values = qkv[run.start : run.end].view(run.count, run.length, 3, heads, -1)
        k, v = keys_values[:, :, 1].transpose(1, 2), keys_values[:, :, 2].transpose(1, 2)
        found = F.scaled_dot_product_attention(queries[done : done + run.count], k, v)
        context[done : done + run.count] = found.reshape(run.count, hidden)
        done += run.count
    return context


@dataclass(frozen=True)
class Products:
    """What becomes of the products of a decoder's queries and keys before the softmax.

    Attributes:
        scale: They are multiplied by it.
        cap: They go through cap·tanh(x / cap); None leaves them.
        window: How many tokens back a token sees, itself included; None sees all.
        is_causal: Whether it sees only itself and what stands before it.
    """

    scale: float
    cap: float | None
    window: int | None
    is_causal: bool = True


def masked_attention(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, products: Products) -> Tensor:
    """Attention of every token to those of its sequence that it sees.

    Args:
        q: (tokens, heads, head_size).
        k, v: (tokens, kv_heads, head_size); each serves heads / kv_heads neighbouring query heads.
        batch: Where each sequence lies.
        products: What it sees, and what becomes of the products.

    Returns:
        (tokens, heads * head_size).
    """
    context = torch.empty_like(q)
    window = products.window
    for run in batch.runs:
        rows = slice(run.start, run.end)
        queries, keys, values = (_by_head(x[rows], run) for x in (q, k, v))
        found = _by_head(context[rows], run)
        sees_all = window is None or run.length <= window
        if products.cap is None and sees_all:
            found.copy_(
                F.scaled_dot_product_attention(
                    queries, keys, values, is_causal=products.is_causal, scale=products.scale, enable_gqa=True
                )
            )
            continue
        places = torch.arange(run.length, device=q.device)
        for begin in range(0, run.length, _QUERY_BLOCK):  # so that memory grows with the length, not with its square
            block = slice(begin, min(begin + _QUERY_BLOCK, run.length))
            first = 0 if sees_all or window is None else max(0, begin - window + 1)
            seen = slice(first, block.stop if products.is_causal else run.length)
            back = places[block, None] - places[None, seen]
            visible = (back >= 0) | (not products.is_causal)
            if window is not None:
                visible &= back < window
            found[:, :, block] = _attend(queries[:, :, block], keys[:, :, seen], values[:, :, seen], visible, products)
    return context.flatten(1)


def masked_attention_of_rows(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, products: Products) -> Tensor:
    """The same for the last token of each sequence: q is (sequences, heads, head_size); (sequences, hidden)."""
    context = torch.empty_like(q)
    done = 0
    for run in batch.runs:
        keys, values = (_by_head(x[run.start : run.end], run)[:, :, -(products.window or 0) :] for x in (k, v))
        chosen = slice(done, done + run.count)
        context[chosen] = _attend(q[chosen, :, None], keys, values, None, products)[:, :, 0]
        done += run.count
    return context.flatten(1)


def _by_head(x: Tensor, run: Run) -> Tensor:
    """(tokens, heads, head_size) of a run to (count, heads, length, head_size), over the same memory."""
    return x.view(run.count, run.length, *x.shape[1:]).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, products: Products) -> Tensor:
    """What torch has no kernel for: (count, heads, queries, head_size) over (count, kv_heads, keys, head_size)."""
    count, heads, queries, size = q.shape
    grouped = q.reshape(count, k.shape[1], -1, queries, size)
    scores = (grouped @ k.unsqueeze(2).transpose(-1, -2)).mul_(products.scale)
    if products.cap is not None:
        scores = scores.div_(products.cap).tanh_().mul_(products.cap)
    if visible is not None:
        scores = scores.masked_fill_(~visible, -math.inf)
    found: Tensor = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v.unsqueeze(2)
    return found.reshape(count, heads, queries, size)


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
