"""The packed decoder trunk of Gemma, Gemma 2, Mistral, Qwen2 and MiniCPM: flat tokens in, hidden states out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from bge_integrations.errors import BGEError, CheckpointError, NotSupportedError
from bge_integrations.models.kernels import (
    Products,
    computed_dtype,
    fill_rows,
    linear,
    masked_attention,
    masked_attention_of_rows,
)
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.checkpoint import Weights

#: A model of more bytes than this shows on a terminal how far its reading has come.
_LARGE = 1 << 30
Activation = Literal["silu", "gelu_tanh"]

_GEMMA, _GEMMA2 = ("gemma",), ("gemma2", "cost_wise_gemma")
DECODER_TYPES = (*_GEMMA, *_GEMMA2, "mistral", "qwen2", "minicpm")
_HALF = ("bfloat16", "float16")
_GEMMA2_DEFAULTS = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
#: What transformers takes where config.json lacks these.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": _GEMMA2_DEFAULTS,
    "cost_wise_gemma": _GEMMA2_DEFAULTS,
    "mistral": {"sliding_window": 4096},
}
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    # Gemma's first configs said "gelu" and meant the tanh form, as transformers reads them
    "gelu": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


@dataclass(frozen=True)
class DecoderConfig:
    """The parts of config.json that shape the trunk.

    Attributes:
        attention_scale: What the products of queries and keys are multiplied by.
        attention_cap: They go through cap·tanh(x / cap) where this is given (Gemma 2).
        windows: For each layer, how many tokens back a token sees, itself included; None sees all.
        norm_offset: Added to the weight of each norm: Gemma stores it less 1.
        sandwich: Whether attention and MLP are followed by norms too (Gemma 2).
        qkv_bias: Whether queries, keys and values have a bias (Qwen2).
        embedding_scale: What the token embeddings are multiplied by.
        residual_scale: What attention and MLP are multiplied by before they are added (MiniCPM).
        logit_cap: Logits go through cap·tanh(x / cap) where this is given.
        is_causal: Whether a token sees only itself and what stands before it.
        tied: Whether the language model's head is the token embeddings.
        stored_bytes: Of a number of the stored weights, as the config says.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    norm_eps: float
    vocabulary_size: int
    max_length: int
    rope_theta: float
    activation: Activation
    attention_scale: float
    attention_cap: float | None
    windows: tuple[int | None, ...]
    norm_offset: float
    sandwich: bool
    qkv_bias: bool
    embedding_scale: float
    residual_scale: float
    logit_cap: float | None
    is_causal: bool
    tied: bool
    stored_bytes: int

    @classmethod
    def read(cls, config: Mapping[str, Any], is_causal: bool = True) -> DecoderConfig:
        """From config.json of any of `DECODER_TYPES`; it may say itself that the model is not causal.

        Raises:
            NotSupportedError: It asks for something that this trunk does not do.
            CheckpointError: It lacks something, or contradicts itself.
        """
        model_type = config.get("model_type")
        if model_type not in DECODER_TYPES:
            raise NotSupportedError(
                f"model_type {model_type!r} is not supported; supported: {', '.join(DECODER_TYPES)}"
            )
        try:
            return cls._read({**_DEFAULTS.get(model_type, {}), **config}, is_causal)
        except BGEError:
            raise
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from error
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"config.json holds a value of the wrong kind ({error})") from error

    @classmethod
    def _read(cls, config: Mapping[str, Any], is_causal: bool) -> DecoderConfig:
        model_type = config["model_type"]
        is_gemma = model_type in _GEMMA + _GEMMA2
        act = config.get("hidden_activation") or config.get("hidden_act", "gelu_pytorch_tanh" if is_gemma else "silu")
        if act not in _ACTIVATIONS or (act == "gelu" and not is_gemma):
            raise NotSupportedError(f"hidden_act {act!r} is not supported, only {', '.join(_ACTIVATIONS)}")
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise NotSupportedError(f"rope type {rope.get('rope_type', rope.get('type'))!r} is not supported")
        if config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1)) != 1:
            raise NotSupportedError("a partial_rotary_factor is not supported")
        if config.get("quantization_config"):
            raise NotSupportedError("quantized checkpoints are not supported; take the published weights and dtype=")
        hidden, heads, layers = (
            int(config[key]) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        )
        head_size = int(config.get("head_dim") or hidden // heads)
        query_scalar = config.get("query_pre_attn_scalar", head_size) if model_type in _GEMMA2 else head_size
        found = cls(
            hidden_size=hidden,
            layers=layers,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=head_size,
            intermediate_size=int(config["intermediate_size"]),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            vocabulary_size=int(config["vocab_size"]),
            max_length=int(config["max_position_embeddings"]),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            activation=_ACTIVATIONS[act],
            attention_scale=float(query_scalar) ** -0.5,
            # the published code of the lightweight reranker (cost_wise_gemma) attends without the cap
            attention_cap=_cap(config, "attn_logit_softcapping") if model_type == "gemma2" else None,
            windows=_windows(config, layers),
            norm_offset=1.0 if is_gemma else 0.0,
            sandwich=model_type in _GEMMA2,
            qkv_bias=model_type == "qwen2" or bool(config.get("attention_bias")),
            embedding_scale=math.sqrt(hidden) if is_gemma else float(config.get("scale_emb", 1.0)),
            residual_scale=(float(config["scale_depth"]) / math.sqrt(layers) if model_type == "minicpm" else 1.0),
            logit_cap=_cap(config, "final_logit_softcapping") if model_type in _GEMMA2 else None,
            is_causal=is_causal and config.get("is_causal", True) and not config.get("use_bidirectional_attention"),
            tied=bool(config.get("tie_word_embeddings", is_gemma)),
            stored_bytes=2 if str(config.get("dtype") or config.get("torch_dtype")) in _HALF else 4,
        )
        if not found.is_causal and any(found.windows):
            raise NotSupportedError("attention to both sides in a sliding window is not supported")
        sizes = (found.hidden_size, found.layers, found.heads, found.kv_heads, found.head_size, found.max_length)
        floats = (found.norm_eps, found.rope_theta, found.attention_scale, found.embedding_scale, found.residual_scale)
        fits = all(math.isfinite(number) and number > 0 for number in floats) and found.heads % found.kv_heads == 0
        if min(*sizes, found.intermediate_size, found.vocabulary_size) < 1 or not fits:
            raise CheckpointError(f"config.json describes no model that can be: {found}")
        return found

    def weight_bytes(self, layers: int, dtype: torch.dtype) -> int:
        """What so many layers and the embeddings take in memory, in bytes."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_size * self.hidden_size
        mlp = 3 * self.intermediate_size * self.hidden_size
        words = self.vocabulary_size * self.hidden_size
        # as stored, unless that is wider than what is computed
        word_bytes = min(self.stored_bytes, computed_dtype(dtype).itemsize)
        return layers * (attention + mlp) * dtype.itemsize + words * word_bytes


def cutoffs_of(config: Mapping[str, Any]) -> range:
    """After how many layers a layerwise or lightweight reranker has a score, from its config.json.

    Raises:
        CheckpointError: It doesn't say, or says nothing that can be.
    """
    try:
        found = range(int(config["start_layer"]), int(config["num_hidden_layers"]) + 1, int(config.get("layer_sep", 1)))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json does not say after which layers there are scores ({error!r})") from error
    if not found or found[0] < 1:
        raise CheckpointError(f"config.json names no layer after which there is a score (start_layer {found.start})")
    return found


def _cap(config: Mapping[str, Any], key: str) -> float | None:
    return float(config[key]) if config.get(key) else None


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Gemma 2 has a window in every other layer, Mistral in all, Qwen2 in the upper ones where it says so."""
    window, model_type = config.get("sliding_window"), config.get("model_type")
    if window is None or window is False or (model_type == "qwen2" and not config.get("use_sliding_window")):
        return (None,) * layers
    if isinstance(window, bool) or int(window) < 1:
        raise CheckpointError(f"config.json: sliding_window {window!r} is no number of tokens")
    kinds = config.get("layer_types")
    if kinds is None and model_type in _GEMMA2:
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    if kinds is None and model_type == "qwen2":
        first = int(config.get("max_window_layers", layers))
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    if kinds is None:
        return (int(window) if model_type == "mistral" else None,) * layers
    if len(kinds) != layers:
        raise CheckpointError(f"config.json names {len(kinds)} layer_types for {layers} layers")
    if not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise NotSupportedError(f"layer_types {sorted(set(kinds))} are not supported")
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)


class _Norm:
    """Root mean square norm."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Rotation:
    """Cosine and sine (computed tokens, 1, head_size / 2) of each position's angles, which turn halves of a vector."""

    def __init__(self, batch: PackedBatch, config: DecoderConfig, dtype: torch.dtype) -> None:
        positions = batch.only_computed(batch.positions)
        self.tokens = len(positions)
        steps = torch.arange(0, config.head_size, 2, device=positions.device, dtype=torch.float32)
        angles = positions.float()[:, None] * config.rope_theta ** (-steps / config.head_size)
        self.cos, self.sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, heads, head_size) to the same."""
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
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config = config
        computed = computed_dtype(dtype)
        # states of language models have outliers, which 8 bits would lose
        make = partial(linear, bias=None, dtype=dtype, exact_inputs=True)
        self._products = Products(config.attention_scale, config.attention_cap, window, config.is_causal)
        hidden, inner = config.hidden_size, config.intermediate_size
        self._queries, self._keys = config.heads * config.head_size, config.kv_heads * config.head_size

        def stacked(sizes: Mapping[str, int], *width: int) -> Tensor:
            """The tensors of these names below each other, converted in place: a copy of each would double the peak."""
            whole = torch.empty(sum(sizes.values()), *width, device=device, dtype=computed)
            for (name, size), rows in zip(sizes.items(), torch.split(whole, list(sizes.values())), strict=True):
                rows.copy_(weights.take(prefix + name, size, *width))
            return whole

        def norm(name: str) -> _Norm:
            weight = weights.take(f"{prefix}{name}.weight", hidden).float() + config.norm_offset
            return _Norm(weight.to(device, computed), config.norm_eps)

        def scaled(name: str, *shape: int) -> Tensor:
            weight = weights.take(prefix + name, *shape)
            if config.residual_scale != 1:
                weight = weight.float() * config.residual_scale
            return weight.to(device, computed, copy=True)

        sizes = {"q": self._queries, "k": self._keys, "v": self._keys}
        self.qkv = make(
            stacked({f"self_attn.{part}_proj.weight": size for part, size in sizes.items()}, hidden),
            bias=stacked({f"self_attn.{part}_proj.bias": size for part, size in sizes.items()})
            if config.qkv_bias
            else None,
        )
        self.attention_out = make(scaled("self_attn.o_proj.weight", hidden, self._queries))
        self.gate_up = make(stacked({f"mlp.{part}_proj.weight": inner for part in ("gate", "up")}, hidden))
        self.down = make(scaled("mlp.down_proj.weight", hidden, inner))
        self.attention_norm = norm("input_layernorm")
        self.mlp_norm = norm("pre_feedforward_layernorm" if config.sandwich else "post_attention_layernorm")
        self.after_attention = norm("post_attention_layernorm") if config.sandwich else None
        self.after_mlp = norm("post_feedforward_layernorm") if config.sandwich else None

    def __call__(self, x: Tensor, batch: PackedBatch, rotation: _Rotation, rows: Tensor | None) -> Tensor:
        """(computed tokens, hidden) to the same, or to (sequences, hidden) for the tokens `rows`, one per sequence.

        Rows are filled up; see `fill_rows`.
        """
        config, tokens = self._config, rotation.tokens
        parts = torch.split(self.qkv(self.attention_norm(x))[:tokens], [self._queries, self._keys, self._keys], -1)
        q, k, v = (part.view(tokens, -1, config.head_size) for part in parts)
        q, k, v = (batch.of_each_token(part) for part in (rotation(q), rotation(k), v))
        if rows is None:
            context = batch.only_computed(masked_attention(q, k, v, batch, self._products))
        else:
            context = masked_attention_of_rows(q[rows], k, v, batch, self._products)
            x = fill_rows(batch.of_each_token(x[:tokens])[rows])
        attended = self.attention_out(fill_rows(context))
        x = x + (attended if self.after_attention is None else self.after_attention(attended))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        active = F.silu(gate) if config.activation == "silu" else F.gelu(gate, approximate="tanh")
        found = self.down(active * up)
        return x + (found if self.after_mlp is None else self.after_mlp(found))


class Decoder:
    """A decoder over packed batches, of which each sequence's last token is read.

    Args:
        layers: How many of the layers to read; None reads all.

    Raises:
        CheckpointError: A tensor is missing or has another shape than config.json says.
    """

    def __init__(
        self, weights: Weights, config: DecoderConfig, layers: int | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = config
        self._dtype = computed_dtype(dtype)
        prefix = weights.prefix_of("embed_tokens.weight")
        words = weights.take(f"{prefix}embed_tokens.weight", config.vocabulary_size, config.hidden_size)
        # widened when they are looked up: a large vocabulary takes gigabytes
        kept = self._dtype if self._dtype.itemsize < words.dtype.itemsize else words.dtype
        self.words = words.to(device, kept, copy=True)
        count = config.layers if layers is None else layers
        shown = config.weight_bytes(count, dtype) > _LARGE and sys.stderr.isatty()
        self.layers = []
        with progress_bar(count, "layer", shown) as progress:
            for i in range(count):
                self.layers.append(_Layer(weights, f"{prefix}layers.{i}.", config, config.windows[i], device, dtype))
                progress.update()
        norm = weights.take(f"{prefix}norm.weight", config.hidden_size).float() + config.norm_offset
        self.norm = _Norm(norm.to(device, self._dtype), config.norm_eps)

    def __call__(
        self,
        batch: PackedBatch,
        between_layers: Callable[[], None],
        cutoffs: Sequence[int],
        compression: Mapping[int, int] | None = None,
    ) -> list[Tensor]:
        """Of each sequence the normed state of its last token, after each number of layers in `cutoffs`.

        Args:
            batch: The sequences; where there is a compression, types 0, 1, 2 are query, passage and prompt.
            between_layers: Called between any two.
            cutoffs: From 1 to the layers that were read; those above the highest are not computed.
            compression: {layer, from 0: ratio}: before that layer each so many passage states become their mean.

        Returns:
            (sequences, hidden) for each of the cut-offs, in their order.
        """
        highest, found = max(cutoffs), {}
        words = self.words[batch.only_computed(batch.ids)].to(self._dtype)
        x = fill_rows(words * torch.tensor(self.config.embedding_scale, dtype=self._dtype))
        rotation = _Rotation(batch, self.config, self._dtype)
        for i, layer in enumerate(self.layers[:highest]):
            if compression and i in compression:
                x, batch = compress(x[: rotation.tokens], batch, compression[i])
                x = fill_rows(x)
                rotation = _Rotation(batch, self.config, self._dtype)
            last = batch.last_tokens
            if i + 1 == highest:
                found[highest] = self.norm(layer(x, batch, rotation, last)[: len(last)])
            else:
                x = layer(x, batch, rotation, None)
                between_layers()
                if i + 1 in cutoffs:
                    found[i + 1] = self.norm(batch.of_each_token(x[: rotation.tokens])[last])
        return [found[cutoff] for cutoff in cutoffs]


def compress(x: Tensor, batch: PackedBatch, ratio: int) -> tuple[Tensor, PackedBatch]:
    """Each `ratio` neighbouring passage states of a sequence become their mean; the last ones of it may be fewer.

    Queries and prompts stay, positions begin at 0 again. (computed tokens, hidden) to fewer, and their batch.
    """
    assert batch.types is not None
    passage = batch.only_computed(batch.types) == 1
    begins = torch.zeros_like(passage)  # a passage's first token
    begins[1:] = passage[1:] & ~passage[:-1]
    place = torch.arange(len(x), device=x.device)
    first = (place * begins).cummax(0).values
    leads = ~passage | ((place - first) % ratio == 0)  # the first token of each group
    group = leads.long().cumsum(0) - 1
    size = group.bincount()
    summed = torch.zeros(len(size), x.shape[1], dtype=torch.float32, device=x.device).index_add_(0, group, x.float())
    return (summed / size[:, None]).to(x.dtype), batch.keep(leads)
