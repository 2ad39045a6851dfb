"""The packed decoder backbone of Gemma, Mistral, Qwen and MiniCPM models: flat tokens in, hidden states out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from bge_integrations.models.attention import AttentionParams, masked_attention, masked_attention_of_rows
from bge_integrations.models.linear import linear, pad_rows
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.decoder_config import DecoderConfig
    from bge_integrations.models.placement import Placement
    from bge_integrations.models.weights import Weights

#: Show a progress bar when loading more bytes of weights than this.
_LARGE = 1 << 30


class _Norm:
    """Root mean square norm."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _RotaryEmbedding:
    """Rotary position embedding: the cosine and sine of each position's angles, (computed tokens, 1, head_size / 2)."""

    def __init__(self, batch: PackedBatch, config: DecoderConfig, dtype: torch.dtype) -> None:
        positions = batch.only_computed(batch.positions)
        self.tokens = len(positions)
        steps = torch.arange(0, config.head_size, 2, device=positions.device, dtype=torch.float32)
        angles = positions.float()[:, None] * config.rope_theta ** (-steps / config.head_size)
        self.cos, self.sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (tokens, heads, head_size); return the same shape."""
        first, second = x.chunk(2, -1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], -1)


class _Layer:
    """One pre-norm transformer layer."""

    def __init__(
        self,
        weights: Weights,
        prefix: str,
        config: DecoderConfig,
        window: int | None,
        placement: Placement,
    ) -> None:
        self._config = config
        device, compute_dtype = placement.device, placement.compute_dtype
        # the states of language models have outliers, which int8 inputs would lose
        make = partial(linear, bias=None, placement=placement, exact_inputs=True)
        self._params = AttentionParams(config.attention_scale, config.attention_cap, window, config.is_causal)
        hidden, inner = config.hidden_size, config.intermediate_size
        self._queries, self._keys = config.heads * config.head_size, config.kv_heads * config.head_size

        def stacked(sizes: Mapping[str, int], *width: int) -> Tensor:
            """Stack these tensors, converting each in place: copies of them would double the peak memory."""
            whole = torch.empty(sum(sizes.values()), *width, device=device, dtype=compute_dtype)
            for (name, size), rows in zip(sizes.items(), torch.split(whole, list(sizes.values())), strict=True):
                rows.copy_(weights.take(prefix + name, size, *width))
            return whole

        def norm(name: str, size: int = hidden) -> _Norm:
            weight = weights.take(f"{prefix}{name}.weight", size).float() + config.norm_offset
            return _Norm(weight.to(device, compute_dtype), config.norm_eps)

        def scaled(name: str, *shape: int) -> Tensor:
            weight = weights.take(prefix + name, *shape)
            if config.residual_scale != 1:
                weight = weight.float() * config.residual_scale
            return weight.to(device, compute_dtype, copy=True)

        sizes = {"q": self._queries, "k": self._keys, "v": self._keys}
        self.qkv = make(
            stacked({f"self_attn.{part}_proj.weight": size for part, size in sizes.items()}, hidden),
            bias=stacked({f"self_attn.{part}_proj.bias": size for part, size in sizes.items()})
            if config.qkv_bias
            else None,
        )
        self.query_norm = norm("self_attn.q_norm", config.head_size) if config.qk_norm else None
        self.key_norm = norm("self_attn.k_norm", config.head_size) if config.qk_norm else None
        self.attention_out = make(scaled("self_attn.o_proj.weight", hidden, self._queries))
        self.gate_up = make(stacked({f"mlp.{part}_proj.weight": inner for part in ("gate", "up")}, hidden))
        self.down = make(scaled("mlp.down_proj.weight", hidden, inner))
        self.attention_norm = norm("input_layernorm")
        self.mlp_norm = norm("pre_feedforward_layernorm" if config.sandwich else "post_attention_layernorm")
        self.after_attention = norm("post_attention_layernorm") if config.sandwich else None
        self.after_mlp = norm("post_feedforward_layernorm") if config.sandwich else None

    def __call__(self, x: Tensor, batch: PackedBatch, rotation: _RotaryEmbedding, rows: Tensor | None) -> Tensor:
        """Map (computed tokens, hidden) to the same shape, or to (sequences, hidden) if `rows` has a token of each.

        Rows are padded; see `pad_rows`.
        """
        config, tokens = self._config, rotation.tokens
        parts = torch.split(self.qkv(self.attention_norm(x))[:tokens], [self._queries, self._keys, self._keys], -1)
        q, k, v = (part.view(tokens, -1, config.head_size) for part in parts)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (batch.of_each_token(part) for part in (rotation(q), rotation(k), v))
        if rows is None:
            context = batch.only_computed(masked_attention(q, k, v, batch, self._params))
        else:
            context = masked_attention_of_rows(q[rows], k, v, batch, self._params)
            x = pad_rows(batch.of_each_token(x[:tokens])[rows])
        attended = self.attention_out(pad_rows(context))
        x = x + (attended if self.after_attention is None else self.after_attention(attended))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        active = F.silu(gate) if config.activation == "silu" else F.gelu(gate, approximate="tanh")
        out = self.down(active * up)
        return x + (out if self.after_mlp is None else self.after_mlp(out))


class Decoder:
    """A decoder over packed batches that reads the last token of each sequence.

    Args:
        layers: Number of layers to load; None loads all.

    Raises:
        CheckpointError: A tensor is missing, or its shape does not match config.json.
    """

    def __init__(self, weights: Weights, config: DecoderConfig, layers: int | None, placement: Placement) -> None:
        self.config = config
        self._dtype = placement.compute_dtype
        prefix = weights.prefix_of("embed_tokens.weight")
        stored = weights.take(f"{prefix}embed_tokens.weight", config.vocabulary_size, config.hidden_size)
        # converted at lookup, not here: a large vocabulary takes gigabytes
        kept_dtype = self._dtype if self._dtype.itemsize < stored.dtype.itemsize else stored.dtype
        self.token_embeddings = stored.to(placement.device, kept_dtype, copy=True)
        count = config.layers if layers is None else layers
        shown = config.weight_bytes(count, placement.dtype) > _LARGE and sys.stderr.isatty()
        self.layers = []
        with progress_bar(count, "layer", shown) as progress:
            for i in range(count):
                self.layers.append(_Layer(weights, f"{prefix}layers.{i}.", config, config.windows[i], placement))
                progress.update()
        norm = weights.take(f"{prefix}norm.weight", config.hidden_size).float() + config.norm_offset
        self.norm = _Norm(norm.to(placement.device, self._dtype), config.norm_eps)

    def __call__(
        self,
        batch: PackedBatch,
        between_layers: Callable[[], None],
        cutoffs: Sequence[int],
        compression: Mapping[int, int] | None = None,
    ) -> list[Tensor]:
        """Return the normalized state of each sequence's last token after each number of layers in `cutoffs`.

        Args:
            batch: The sequences. With compression, token types 0, 1 and 2 are query, passage and prompt.
            between_layers: Called between any two layers.
            cutoffs: From 1 to the number of loaded layers; layers above the highest are not computed.
            compression: {layer (from 0): ratio}: before that layer, merge every `ratio` passage states into their mean.

        Returns:
            (sequences, hidden) for each cut-off, in their order.
        """
        highest, states = max(cutoffs), {}
        embedded = self.token_embeddings[batch.only_computed(batch.ids)].to(self._dtype)
        x = pad_rows(embedded * torch.tensor(self.config.embedding_scale, dtype=self._dtype))
        rotation = _RotaryEmbedding(batch, self.config, self._dtype)
        for i, layer in enumerate(self.layers[:highest]):
            if compression and i in compression:
                x, batch = compress(x[: rotation.tokens], batch, compression[i])
                x = pad_rows(x)
                rotation = _RotaryEmbedding(batch, self.config, self._dtype)
            last = batch.last_tokens
            if i + 1 == highest:
                states[highest] = self.norm(layer(x, batch, rotation, last)[: len(last)])
            else:
                x = layer(x, batch, rotation, None)
                between_layers()
                if i + 1 in cutoffs:
                    states[i + 1] = self.norm(batch.of_each_token(x[: rotation.tokens])[last])
        return [states[cutoff] for cutoff in cutoffs]


def compress(x: Tensor, batch: PackedBatch, ratio: int) -> tuple[Tensor, PackedBatch]:
    """Merge every `ratio` neighbouring passage states of a sequence into their mean; the last group may be smaller.

    Queries and prompts are unchanged, and positions restart at 0. Takes (computed tokens, hidden), returns fewer tokens
    and their batch.
    """
    assert batch.types is not None
    passage = batch.only_computed(batch.types) == 1
    begins = torch.zeros_like(passage)  # a passage's first token
    begins[1:] = passage[1:] & ~passage[:-1]
    index = torch.arange(len(x), device=x.device)
    first = (index * begins).cummax(0).values
    leads = ~passage | ((index - first) % ratio == 0)  # the first token of each group
    group = leads.long().cumsum(0) - 1
    size = group.bincount()
    summed = torch.zeros(len(size), x.shape[1], dtype=torch.float32, device=x.device).index_add_(0, group, x.float())
    return (summed / size[:, None]).to(x.dtype), batch.keep(leads)
