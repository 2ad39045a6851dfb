"""Attention over packed batches, with the fastest kernel that the device has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.batch import LengthGroup, PackedBatch

#: Query tokens computed at a time if torch has no kernel, so that memory grows linearly with the length.
_QUERY_BLOCK = 512


def attention(qkv: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Compute full attention of every token to the tokens of its own sequence.

    Args:
        qkv: (tokens, 3 * hidden): queries, keys and values side by side; on the CPU, padding rows may follow.
        batch: The layout of the sequences.
        heads: Number of attention heads.

    Returns:
        (tokens, hidden), with a row of zeros for each padding row.
    """
    tokens, width = qkv.shape
    if qkv.device.type == "cuda" and qkv.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = qkv.view(tokens, 3, heads, -1).unbind(1)
        out = varlen_attn(q, k, v, batch.cumulative, batch.cumulative, batch.lengths[0], batch.lengths[0])
        assert isinstance(out, torch.Tensor)
        return out.reshape(tokens, width // 3)
    exact = qkv.float()  # torch's CPU kernel is a tenth to a fifth slower in bfloat16
    contexts = []
    for group in batch.length_groups:
        q, k, v = exact[group.start : group.end].view(group.count, group.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v)
        contexts.append(context.transpose(1, 2).reshape(group.count * group.length, width // 3))
    if padding := tokens - len(batch.ids):
        contexts.append(exact.new_zeros(padding, width // 3))
    return (torch.cat(contexts) if len(contexts) > 1 else contexts[0]).to(qkv.dtype)


def attention_of_rows(qkv: Tensor, rows: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Compute attention of only one token per sequence, `rows` (sequences,); return (sequences, hidden).

    The last layer needs no more if only these tokens are read.
    """
    hidden = qkv.shape[1] // 3
    queries = qkv[rows, :hidden].view(len(rows), heads, 1, -1)
    context = qkv.new_empty(len(rows), hidden)
    done = 0
    for group in batch.length_groups:
        keys_values = qkv[group.start : group.end].view(group.count, group.length, 3, heads, -1)
        k, v = keys_values[:, :, 1].transpose(1, 2), keys_values[:, :, 2].transpose(1, 2)
        attended = F.scaled_dot_product_attention(queries[done : done + group.count], k, v)
        context[done : done + group.count] = attended.reshape(group.count, hidden)
        done += group.count
    return context


@dataclass(frozen=True)
class AttentionParams:
    """The attention parameters of a decoder layer.

    Attributes:
        scale: Multiplies the products of queries and keys.
        cap: Softcap of these products, cap·tanh(x / cap); None for none.
        window: Sliding window: a token attends to this many tokens up to and including itself; None for all.
        is_causal: Whether a token attends only to itself and the tokens before it.
    """

    scale: float
    cap: float | None
    window: int | None
    is_causal: bool = True


def masked_attention(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, params: AttentionParams) -> Tensor:
    """Compute attention of every token to the tokens of its sequence that the mask allows.

    Args:
        q: (tokens, heads, head_size).
        k, v: (tokens, kv_heads, head_size); each serves heads / kv_heads neighbouring query heads.
        batch: The layout of the sequences.
        params: The mask and the scale.

    Returns:
        (tokens, heads * head_size).
    """
    context = torch.empty_like(q)
    window = params.window
    for group in batch.length_groups:
        rows = slice(group.start, group.end)
        queries, keys, values = (_by_head(x[rows], group) for x in (q, k, v))
        out = _by_head(context[rows], group)
        sees_all = window is None or group.length <= window
        if params.cap is None and sees_all:
            out.copy_(
                F.scaled_dot_product_attention(
                    queries, keys, values, is_causal=params.is_causal, scale=params.scale, enable_gqa=True
                )
            )
            continue
        positions = torch.arange(group.length, device=q.device)
        for begin in range(0, group.length, _QUERY_BLOCK):
            block = slice(begin, min(begin + _QUERY_BLOCK, group.length))
            first = 0 if sees_all or window is None else max(0, begin - window + 1)
            seen = slice(first, block.stop if params.is_causal else group.length)
            back = positions[block, None] - positions[None, seen]
            visible = (back >= 0) | (not params.is_causal)
            if window is not None:
                visible &= back < window
            out[:, :, block] = _attend(queries[:, :, block], keys[:, :, seen], values[:, :, seen], visible, params)
    return context.flatten(1)


def masked_attention_of_rows(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, params: AttentionParams) -> Tensor:
    """Compute only the last token of each sequence: q is (sequences, heads, head_size); return (sequences, hidden)."""
    context = torch.empty_like(q)
    done = 0
    for group in batch.length_groups:
        keys, values = (_by_head(x[group.start : group.end], group)[:, :, -(params.window or 0) :] for x in (k, v))
        chosen = slice(done, done + group.count)
        context[chosen] = _attend(q[chosen, :, None], keys, values, None, params)[:, :, 0]
        done += group.count
    return context.flatten(1)


def _by_head(x: Tensor, group: LengthGroup) -> Tensor:
    """View a length group's (tokens, heads, head_size) as (count, heads, length, head_size), without a copy."""
    return x.view(group.count, group.length, *x.shape[1:]).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, params: AttentionParams) -> Tensor:
    """Compute attention without a fused kernel: q (count, heads, queries, head_size), k and v (count, kv_heads, keys,
    head_size)."""
    count, heads, queries, size = q.shape
    grouped = q.reshape(count, k.shape[1], -1, queries, size)
    scores = (grouped @ k.unsqueeze(2).transpose(-1, -2)).mul_(params.scale)
    if params.cap is not None:
        scores = scores.div_(params.cap).tanh_().mul_(params.cap)
    if visible is not None:
        scores = scores.masked_fill_(~visible, -math.inf)
    context: Tensor = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v.unsqueeze(2)
    return context.reshape(count, heads, queries, size)
