"""The packed BERT and XLM-R backbone: flat tokens in, hidden states out, without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from bge_integrations.models.attention import attention, attention_of_rows
from bge_integrations.models.linear import linear, pad_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.encoder_config import EncoderConfig
    from bge_integrations.models.placement import Placement
    from bge_integrations.models.weights import Weights


class LayerNorm:
    """Layer norm with a weight and a bias."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self.weight, self.bias, self.eps = weight, bias, eps

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer:
    """One post-norm transformer layer."""

    def __init__(self, weights: Weights, prefix: str, config: EncoderConfig, placement: Placement) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size

        def take(name: str, *shape: int) -> Tensor:
            return weights.take(prefix + name, *shape).to(placement.device, placement.compute_dtype, copy=True)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(take(f"{name}.weight", hidden), take(f"{name}.bias", hidden), config.norm_eps)

        parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
        self.heads = config.heads
        self.qkv = linear(
            torch.cat([take(f"{part}.weight", hidden, hidden) for part in parts]),
            torch.cat([take(f"{part}.bias", hidden) for part in parts]),
            placement,
        )
        self.attention_out = linear(
            take("attention.output.dense.weight", hidden, hidden),
            take("attention.output.dense.bias", hidden),
            placement,
            "add",
        )
        self.attention_norm = norm("attention.output.LayerNorm")
        self.up = linear(
            take("intermediate.dense.weight", inner, hidden), take("intermediate.dense.bias", inner), placement, "gelu"
        )
        self.down = linear(
            take("output.dense.weight", hidden, inner), take("output.dense.bias", hidden), placement, "add"
        )
        self.norm = norm("output.LayerNorm")

    def __call__(self, x: Tensor, batch: PackedBatch, rows: Tensor | None) -> Tensor:
        """Map (tokens, hidden) to the same shape, or to (sequences, hidden) for the tokens `rows`; rows are padded."""
        qkv = self.qkv(x)
        if rows is None:
            context = attention(qkv, batch, self.heads)
        else:
            context, x = pad_rows(attention_of_rows(qkv, rows, batch, self.heads)), pad_rows(x[rows])
        x = self.attention_norm(self.attention_out.add(context, x))
        return self.norm(self.down.add(self.up.gelu(x), x))


class Encoder:
    """BERT, RoBERTa or XLM-R, over packed batches.

    Raises:
        CheckpointError: A tensor is missing, or its shape does not match config.json.
    """

    def __init__(self, weights: Weights, config: EncoderConfig, placement: Placement) -> None:
        self.config = config
        hidden = config.hidden_size
        prefix = weights.prefix_of("embeddings.word_embeddings.weight")

        def take(name: str, *shape: int) -> Tensor:
            weight = weights.take(f"{prefix}embeddings.{name}", *shape)
            return weight.to(placement.device, placement.compute_dtype, copy=True)

        self.token_embeddings = take("word_embeddings.weight", config.vocabulary_size, hidden)
        #: The whole table, and its rows from position 0 of a text on.
        self.position_table = take("position_embeddings.weight", config.positions, hidden)
        self.position_embeddings = self.position_table[config.first_position :]
        self.type_embeddings = take("token_type_embeddings.weight", config.token_types, hidden)
        self.norm = LayerNorm(take("LayerNorm.weight", hidden), take("LayerNorm.bias", hidden), config.norm_eps)
        self.layers = [_Layer(weights, f"{prefix}encoder.layer.{i}.", config, placement) for i in range(config.layers)]

    def __call__(self, batch: PackedBatch, between_layers: Callable[[], None], rows: Tensor | None = None) -> Tensor:
        """Return the hidden states of the last layer.

        Args:
            batch: The sequences; none longer than `config.max_length`.
            between_layers: Called between any two layers.
            rows: (sequences,) index of the one token to return per sequence; None returns all tokens.

        Returns:
            (tokens, hidden), or (sequences, hidden) with `rows`.
        """
        x = F.embedding(batch.ids, self.token_embeddings).add_(F.embedding(batch.positions, self.position_embeddings))
        x += self.type_embeddings[0] if batch.types is None else F.embedding(batch.types, self.type_embeddings)
        return self.run_layers(self.norm(x), batch, between_layers, rows)

    def run_layers(
        self, x: Tensor, batch: PackedBatch, between_layers: Callable[[], None], rows: Tensor | None = None
    ) -> Tensor:
        """Return the hidden states of the last layer for embedded tokens, (tokens, hidden); see `__call__`."""
        x = pad_rows(x)
        for layer in self.layers[:-1]:
            x = layer(x, batch, None)
            between_layers()
        return self.layers[-1](x, batch, rows)[: len(batch.ids if rows is None else rows)]
