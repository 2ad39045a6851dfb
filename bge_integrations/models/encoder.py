"""The packed BERT and XLM-R trunk: flat tokens in, hidden states out, no padding anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.models.kernels import attention, attention_of_rows, computed_dtype, fill_rows, linear
from bge_integrations.models.profile import ENCODER_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.checkpoint import Weights


@dataclass(frozen=True)
class EncoderConfig:
    """The parts of config.json that shape the trunk."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    norm_eps: float
    vocabulary_size: int
    positions: int
    token_types: int
    #: XLM-R counts positions from pad_token_id + 1, BERT from 0.
    first_position: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> EncoderConfig:
        model_type = config.get("model_type")
        if model_type not in ENCODER_TYPES:
            raise NotSupportedError(
                f"model_type {model_type!r} is not supported; supported: {', '.join(ENCODER_TYPES)}"
            )
        if config.get("hidden_act", "gelu") != "gelu":
            raise NotSupportedError(f"hidden_act {config['hidden_act']!r} is not supported, only 'gelu'")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise NotSupportedError(f"position_embedding_type {config['position_embedding_type']!r} is not supported")
        try:
            found = cls(
                hidden_size=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                intermediate_size=int(config["intermediate_size"]),
                norm_eps=float(config.get("layer_norm_eps", 1e-12)),
                vocabulary_size=int(config["vocab_size"]),
                positions=int(config["max_position_embeddings"]),
                token_types=int(config.get("type_vocab_size", 2)),
                first_position=0 if model_type == "bert" else int(config.get("pad_token_id", 1)) + 1,
            )
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"config.json holds a value of the wrong kind ({error})") from error
        sizes = (found.hidden_size, found.layers, found.heads, found.intermediate_size, found.vocabulary_size)
        if min(*sizes, found.max_length, found.first_position + 1) < 1 or found.hidden_size % found.heads:
            raise CheckpointError(f"config.json describes no model that can be: {found}")
        return found

    @property
    def max_length(self) -> int:
        """Longest sequence that the position embeddings hold."""
        return self.positions - self.first_position


class _Norm:
    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self.weight, self.bias, self.eps = weight, bias, eps

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer:
    """One post-norm transformer layer."""

    def __init__(self, weights: Weights, prefix: str, config: EncoderConfig, device: torch.device, dtype: torch.dtype):
        hidden, inner = config.hidden_size, config.intermediate_size
        computed = computed_dtype(dtype)

        def take(name: str, *shape: int) -> Tensor:
            return weights.take(prefix + name, *shape).to(device, computed, copy=True)

        def norm(name: str) -> _Norm:
            return _Norm(take(f"{name}.weight", hidden), take(f"{name}.bias", hidden), config.norm_eps)

        parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
        self.heads = config.heads
        self.qkv = linear(
            torch.cat([take(f"{part}.weight", hidden, hidden) for part in parts]),
            torch.cat([take(f"{part}.bias", hidden) for part in parts]),
            dtype,
        )
        self.attention_out = linear(
            take("attention.output.dense.weight", hidden, hidden),
            take("attention.output.dense.bias", hidden),
            dtype,
            "add",
        )
        self.attention_norm = norm("attention.output.LayerNorm")
        self.up = linear(
            take("intermediate.dense.weight", inner, hidden), take("intermediate.dense.bias", inner), dtype, "gelu"
        )
        self.down = linear(take("output.dense.weight", hidden, inner), take("output.dense.bias", hidden), dtype, "add")
        self.norm = norm("output.LayerNorm")

    def __call__(self, x: Tensor, batch: PackedBatch, rows: Tensor | None) -> Tensor:
        """(tokens, hidden) to the same, or to (sequences, hidden) for one token per sequence; rows are filled up."""
        qkv = self.qkv(x)
        if rows is None:
            context = attention(qkv, batch, self.heads)
        else:
            context, x = fill_rows(attention_of_rows(qkv, rows, batch, self.heads)), fill_rows(x[rows])
        x = self.attention_norm(self.attention_out.add(context, x))
        return self.norm(self.down.add(self.up.gelu(x), x))


class Encoder:
    """BERT, RoBERTa or XLM-R, over packed batches.

    Raises:
        CheckpointError: A tensor is missing or has another shape than config.json says.
    """

    def __init__(self, weights: Weights, config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        hidden, computed = config.hidden_size, computed_dtype(dtype)
        prefix = weights.prefix_of("embeddings.word_embeddings.weight")

        def take(name: str, *shape: int) -> Tensor:
            return weights.take(f"{prefix}embeddings.{name}", *shape).to(device, computed, copy=True)

        self.words = take("word_embeddings.weight", config.vocabulary_size, hidden)
        self.positions = take("position_embeddings.weight", config.positions, hidden)[config.first_position :]
        self.types = take("token_type_embeddings.weight", config.token_types, hidden)
        self.norm = _Norm(take("LayerNorm.weight", hidden), take("LayerNorm.bias", hidden), config.norm_eps)
        self.layers = [
            _Layer(weights, f"{prefix}encoder.layer.{i}.", config, device, dtype) for i in range(config.layers)
        ]

    def __call__(self, batch: PackedBatch, between_layers: Callable[[], None], rows: Tensor | None = None) -> Tensor:
        """Hidden states of the last layer.

        Args:
            batch: The sequences; none longer than `config.max_length`.
            between_layers: Called between any two.
            rows: (sequences,) index of the one token per sequence that is read, or None for all.

        Returns:
            (tokens, hidden), or (sequences, hidden) with `rows`.
        """
        x = F.embedding(batch.ids, self.words).add_(F.embedding(batch.positions, self.positions))
        x += self.types[0] if batch.types is None else F.embedding(batch.types, self.types)
        x = fill_rows(self.norm(x))
        for layer in self.layers[:-1]:
            x = layer(x, batch, None)
            between_layers()
        return self.layers[-1](x, batch, rows)[: len(batch.ids if rows is None else rows)]
