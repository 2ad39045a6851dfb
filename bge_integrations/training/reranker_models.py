"""Rerankers as trainable modules: a batch of pairs in, the scores after each trained layer out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GraniteConfig,
    GraniteModel,
    GranitePreTrainedModel,
)

from bge_integrations.errors import NotSupportedError
from bge_integrations.models.checkpoint import read_config
from bge_integrations.models.decoder_config import DecoderConfig, cutoffs_of
from bge_integrations.models.decoder_heads import yes_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from bge_integrations.catalog import Family
    from bge_integrations.models.tokenizer import TextTokenizer


class TrainableReranker(NamedTuple):
    """A reranker to train.

    Attributes:
        model: transformers' model.
        score: Takes the model, which may be wrapped by now, and a batch of token ids and masks; returns the scores of
            the pairs after each trained layer, (layers, pairs).
    """

    model: PreTrainedModel
    score: Callable[[nn.Module, dict[str, Tensor]], Tensor]


def load_trainable(folder: Path, family: Family, tokenizer: TextTokenizer, **options: Any) -> TrainableReranker:
    """Load a reranker's checkpoint for training; `options` are those of transformers' `from_pretrained`.

    Raises:
        NotSupportedError: Rerankers of this family, or the checkpoint's heads, can't be trained.
    """
    if family == "cross_encoder":
        return TrainableReranker(
            AutoModelForSequenceClassification.from_pretrained(folder, **options),
            lambda model, batch: model(**batch).logits.T,
        )
    if family == "llm_reranker":
        yes = yes_token(tokenizer)
        return TrainableReranker(
            AutoModelForCausalLM.from_pretrained(folder, **options),
            lambda model, batch: model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1, yes][None],
        )
    if family == "layerwise_reranker":
        return TrainableReranker(LayerwiseReranker.load(folder, **options), lambda model, batch: model(**batch))
    raise NotSupportedError(
        f"a {family.replace('_', ' ')} can't be trained",
        argument="model",
        advice="train a cross-encoder, bge-reranker-v2-gemma or bge-reranker-v2-minicpm-layerwise",
    )


class LayerwiseReranker(GranitePreTrainedModel):
    """bge-reranker-v2-minicpm-layerwise: a MiniCPM backbone with a linear head after each of the upper layers.

    MiniCPM scales the embeddings and the residuals, which Granite's code does too, so that none of the checkpoint's own
    code is run. The tensors have the names of the published checkpoint.
    """

    def __init__(self, config: GraniteConfig) -> None:
        super().__init__(config)
        self.model = GraniteModel(config)
        self.lm_head = nn.ModuleList(_LayerHead(config.hidden_size) for _ in config.cutoffs)
        self.post_init()

    @classmethod
    def load(cls, folder: Path, **options: Any) -> LayerwiseReranker:
        """Load the checkpoint; `options` are those of `from_pretrained`.

        Raises:
            NotSupportedError: Its heads are not one row for each layer.
        """
        stored = read_config(folder)
        if stored.get("head_type", "simple") != "simple" or not stored.get("head_multi", True):
            raise NotSupportedError(
                f"{folder} has heads of another kind than one row per layer (head_type "
                f"{stored.get('head_type')!r}, head_multi {stored.get('head_multi')!r}), which can't be trained"
            )
        return cls.from_pretrained(folder, config=_granite_config(stored), **options)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the scores of left-padded pairs, (layers, pairs)."""
        out = self.model(input_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False)
        cutoffs, scores = self.config.cutoffs, []
        for cutoff, head in zip(cutoffs, self.lm_head, strict=True):
            states = out.hidden_states[cutoff][:, -1]
            if cutoff < self.config.num_hidden_layers:  # the last layer's states are normalized already
                states = self.model.norm(states)
            scores.append(head(states))
        return torch.stack(scores)


class _LayerHead(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear_head = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.linear_head(states).squeeze(-1)


def _granite_config(stored: dict[str, Any]) -> GraniteConfig:
    read = DecoderConfig.read(stored)
    return GraniteConfig(
        vocab_size=read.vocabulary_size,
        hidden_size=read.hidden_size,
        intermediate_size=read.intermediate_size,
        num_hidden_layers=read.layers,
        num_attention_heads=read.heads,
        num_key_value_heads=read.kv_heads,
        max_position_embeddings=read.max_length,
        rms_norm_eps=read.norm_eps,
        rope_theta=read.rope_theta,
        initializer_range=float(stored.get("initializer_range", 0.02)),
        embedding_multiplier=read.embedding_scale,
        residual_multiplier=read.residual_scale,
        attention_multiplier=read.attention_scale,
        tie_word_embeddings=False,
        pad_token_id=stored.get("pad_token_id"),
        cutoffs=list(cutoffs_of(stored)),
    )
