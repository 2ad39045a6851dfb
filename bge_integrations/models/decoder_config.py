"""The settings of a decoder backbone, read from config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bge_integrations.errors import BGEError, CheckpointError, NotSupportedError

Activation = Literal["silu", "gelu_tanh"]

_GEMMA, _GEMMA2, _QWEN = ("gemma",), ("gemma2", "cost_wise_gemma"), ("qwen2", "qwen3")
#: The model_type of every supported decoder.
DECODER_TYPES = (*_GEMMA, *_GEMMA2, "mistral", *_QWEN, "minicpm")
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_GEMMA2_DEFAULTS = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
#: transformers' defaults for values that config.json lacks.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": _GEMMA2_DEFAULTS,
    "cost_wise_gemma": _GEMMA2_DEFAULTS,
    "mistral": {"sliding_window": 4096},
    "qwen3": {"head_dim": 128},
}
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    # Gemma's first configs say "gelu" but mean the tanh form; transformers reads them the same way
    "gelu": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


@dataclass(frozen=True)
class DecoderConfig:
    """The parts of config.json that shape the backbone.

    Attributes:
        attention_scale: Multiplies the products of queries and keys.
        attention_cap: Softcap of these products, cap·tanh(x / cap) (Gemma 2); None for none.
        windows: Each layer's sliding window in tokens, counted up to and including the token itself; None for all.
        norm_offset: Added to the weight of each norm: Gemma stores weight - 1.
        sandwich: Whether attention and MLP are also followed by norms (Gemma 2).
        qkv_bias: Whether queries, keys and values have a bias (Qwen2).
        qk_norm: Whether each head's queries and keys are normalized (Qwen3).
        embedding_scale: Multiplies the token embeddings.
        residual_scale: Multiplies the outputs of attention and MLP before they are added (MiniCPM).
        logit_cap: Softcap of the logits; None for none.
        is_causal: Whether a token attends only to itself and the tokens before it.
        tied: Whether the language model's head shares the token embeddings.
        stored_bytes: Bytes per number of the stored weights, according to the config.
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
    qk_norm: bool
    embedding_scale: float
    residual_scale: float
    logit_cap: float | None
    is_causal: bool
    tied: bool
    stored_bytes: int

    @classmethod
    def read(cls, config: Mapping[str, Any], is_causal: bool = True) -> DecoderConfig:
        """Read the config.json of any of `DECODER_TYPES`. It can also declare that the model is not causal.

        Raises:
            NotSupportedError: It requires something that this backbone does not support.
            CheckpointError: A value is missing, or inconsistent with another.
        """
        model_type = config.get("model_type")
        if model_type not in DECODER_TYPES:
            raise NotSupportedError(
                f"a model of type {model_type!r} can't be run as a decoder; decoders are {', '.join(DECODER_TYPES)}"
            )
        try:
            return cls._read({**_DEFAULTS.get(model_type, {}), **config}, is_causal)
        except BGEError:
            raise
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from error
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"config.json contains a value of the wrong type ({error})") from error

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
            raise NotSupportedError("partial_rotary_factor is not supported")
        if config.get("attention_bias"):
            raise NotSupportedError("attention_bias is not supported")
        if config.get("quantization_config"):
            raise NotSupportedError("quantized checkpoints are not supported; load the original weights with dtype=")
        hidden, heads, layers = (
            int(config[key]) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        )
        head_size = int(config.get("head_dim") or hidden // heads)
        query_scalar = config.get("query_pre_attn_scalar", head_size) if model_type in _GEMMA2 else head_size
        parsed = cls(
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
            # the lightweight reranker's published code (cost_wise_gemma) does not apply the cap
            attention_cap=_cap(config, "attn_logit_softcapping") if model_type == "gemma2" else None,
            windows=_windows(config, layers),
            norm_offset=1.0 if is_gemma else 0.0,
            sandwich=model_type in _GEMMA2,
            qkv_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
            embedding_scale=math.sqrt(hidden) if is_gemma else float(config.get("scale_emb", 1.0)),
            residual_scale=(float(config["scale_depth"]) / math.sqrt(layers) if model_type == "minicpm" else 1.0),
            logit_cap=_cap(config, "final_logit_softcapping") if model_type in _GEMMA2 else None,
            is_causal=is_causal and config.get("is_causal", True) and not config.get("use_bidirectional_attention"),
            tied=bool(config.get("tie_word_embeddings", is_gemma)),
            stored_bytes=_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4),
        )
        if not parsed.is_causal and any(parsed.windows):
            raise NotSupportedError("bidirectional attention in a sliding window is not supported")
        sizes = (parsed.hidden_size, parsed.layers, parsed.heads, parsed.kv_heads, parsed.head_size, parsed.max_length)
        floats = (
            parsed.norm_eps,
            parsed.rope_theta,
            parsed.attention_scale,
            parsed.embedding_scale,
            parsed.residual_scale,
        )
        fits = all(math.isfinite(number) and number > 0 for number in floats) and parsed.heads % parsed.kv_heads == 0
        if min(*sizes, parsed.intermediate_size, parsed.vocabulary_size) < 1 or not fits:
            raise CheckpointError(f"config.json is inconsistent: {parsed}")
        return parsed

    def weight_bytes(self, layers: int, dtype: str) -> int:
        """Return how many bytes the embeddings and the first `layers` layers take in memory."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_size * self.hidden_size
        mlp = 3 * self.intermediate_size * self.hidden_size
        embeddings = self.vocabulary_size * self.hidden_size
        # stored in the file's dtype unless it is wider than the compute dtype, which is float32 for int8
        embedding_bytes = min(self.stored_bytes, _BYTES["float32" if dtype == "int8" else dtype])
        return layers * (attention + mlp) * _BYTES[dtype] + embeddings * embedding_bytes


def cutoffs_of(config: Mapping[str, Any]) -> range:
    """Return the numbers of layers after which a layerwise or lightweight reranker can score.

    Raises:
        CheckpointError: config.json does not specify them, or leaves none.
    """
    try:
        cutoffs = range(
            int(config["start_layer"]), int(config["num_hidden_layers"]) + 1, int(config.get("layer_sep", 1))
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"config.json does not specify the layers to score after ({error!r})") from error
    if not cutoffs or cutoffs[0] < 1:
        raise CheckpointError(f"config.json leaves no layer to score after (start_layer {cutoffs.start})")
    return cutoffs


def _cap(config: Mapping[str, Any], key: str) -> float | None:
    return float(config[key]) if config.get(key) else None


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Return each layer's window: Gemma 2 has one in every other layer, Mistral in all, Qwen in upper ones or none."""
    window, model_type = config.get("sliding_window"), config.get("model_type")
    if window is None or window is False or (model_type in _QWEN and not config.get("use_sliding_window")):
        return (None,) * layers
    if isinstance(window, bool) or int(window) < 1:
        raise CheckpointError(f"config.json: sliding_window {window!r} is not a number of tokens")
    kinds = config.get("layer_types")
    if kinds is None and model_type in _GEMMA2:
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    if kinds is None and model_type in _QWEN:
        first = int(config.get("max_window_layers", layers))
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    if kinds is None:
        return (int(window) if model_type == "mistral" else None,) * layers
    if len(kinds) != layers:
        raise CheckpointError(f"config.json names {len(kinds)} layer_types for {layers} layers")
    if not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise NotSupportedError(f"layer_types {sorted(set(kinds))} are not supported")
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
