"""Rerankers as trainable modules: a batch of pairs in, the scores after each trained layer out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bge_integrations.errors import NotSupportedError
from bge_integrations.models.checkpoint import read_config
from bge_integrations.models.decoder_config import DecoderConfig, cutoffs_of
from bge_integrations.models.decoder_heads import first_token
from bge_integrations.optional import needed_by

with needed_by(__name__, "bge-integrations[train]"):
    import torch
    from torch import Tensor, nn
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GraniteConfig,
        GraniteModel,
        GranitePreTrainedModel,
    )

    from bge_integrations.training.backbone import load_backbone
    from bge_integrations.training.reranker_losses import reranking_loss

if TYPE_CHECKING:
    from bge_integrations.catalog import Family
    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.training.settings import TrainingSettings

Score = Callable[[nn.Module, dict[str, Tensor]], Tensor]


class TrainableReranker(NamedTuple):
    """A reranker to train.

    Attributes:
        model: transformers' model.
        score: Takes the model, with an adapter or without, and a batch of token ids and masks; returns the scores of
            the pairs after each trained layer, (layers, pairs).
        task: What peft calls its task; None if peft has no name for it.
    """

    model: Any
    score: Score
    task: str | None


def load_trainable(
    folder: Path, family: Family, tokenizer: TextTokenizer, settings: TrainingSettings, precision: str, lora: bool
) -> TrainableReranker:
    """Load a cross-encoder, an LLM reranker or a layerwise reranker for training; see `load_backbone`.

    Raises:
        NotSupportedError: A layerwise checkpoint's heads can't be trained.
        CheckpointError: The checkpoint lacks weights.
    """

    def load(kind: Any) -> Any:
        return load_backbone(kind, folder, settings, lora=lora, precision=precision)

    if family == "cross_encoder":
        return TrainableReranker(load(AutoModelForSequenceClassification), _classifier_scores, "SEQ_CLS")
    if family == "llm_reranker":
        return TrainableReranker(load(AutoModelForCausalLM), _yes_scores(first_token(tokenizer, "Yes")), "CAUSAL_LM")
    return TrainableReranker(load(LayerwiseReranker), _layer_scores, None)


class RerankerModule(nn.Module):
    """A reranker with its loss.

    Args:
        backbone: The model of a `TrainableReranker`, or that with an adapter.
        score: Its function.
    """

    def __init__(self, backbone: Any, score: Score) -> None:
        super().__init__()
        self.backbone = backbone
        self._score = score

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        sizes: Tensor,
        token_type_ids: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the `loss` of a batch that `collate` made."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        return {"loss": reranking_loss(self._score(self.backbone, batch), sizes.tolist(), teacher)}


class LayerwiseReranker(GranitePreTrainedModel):  # type: ignore[no-untyped-call]
    """bge-reranker-v2-minicpm-layerwise: a MiniCPM backbone with a linear head after each of the upper layers.

    MiniCPM scales the embeddings and the residuals. Granite's code does so too, so none of the checkpoint's own code is
    run. The tensors have the names of the published checkpoint.
    """

    def __init__(self, config: GraniteConfig) -> None:
        super().__init__(config)
        self.model = GraniteModel(config)
        self.lm_head = nn.ModuleList(_LayerHead(config.hidden_size) for _ in config.cutoffs)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, folder: Path, **options: Any) -> Any:  # type: ignore[override]
        """Load the checkpoint; `options` are transformers'.

        Raises:
            NotSupportedError: Its heads are not one row for each layer.
        """
        return super().from_pretrained(folder, config=_granite_config(read_config(folder)), **options)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the scores of left-padded pairs, (layers, pairs)."""
        out = self.model(input_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False)
        scores = []
        for cutoff, head in zip(self.config.cutoffs, self.lm_head, strict=True):
            states = out.hidden_states[cutoff][:, -1]
            if cutoff < self.config.num_hidden_layers:  # the last layer's states are normalized already
                states = self.model.norm(states)
            scores.append(head(states))
        return torch.stack(scores)


class _LayerHead(nn.Module):
    """A checkpoint's `lm_head.N`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear_head = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        scores: Tensor = self.linear_head(states)
        return scores.squeeze(-1)


def _granite_config(stored: dict[str, Any]) -> GraniteConfig:
    head_type, has_many = stored.get("head_type", "simple"), stored.get("head_multi", True)
    if head_type != "simple" or not has_many:
        raise NotSupportedError(
            f"its heads (head_type {head_type!r}, head_multi {has_many!r}) can't be trained, only one row per layer",
            argument="model",
        )
    read = DecoderConfig.read(stored)
    # transformers 5 has another name for rope_theta, and still reads this one
    others: dict[str, Any] = {"rope_theta": read.rope_theta, "cutoffs": list(cutoffs_of(stored))}
    return GraniteConfig(
        vocab_size=read.vocabulary_size,
        hidden_size=read.hidden_size,
        intermediate_size=read.intermediate_size,
        num_hidden_layers=read.layers,
        num_attention_heads=read.heads,
        num_key_value_heads=read.kv_heads,
        max_position_embeddings=read.max_length,
        rms_norm_eps=read.norm_eps,
        embedding_multiplier=read.embedding_scale,
        residual_multiplier=read.residual_scale,
        attention_multiplier=read.attention_scale,
        tie_word_embeddings=False,
        pad_token_id=stored.get("pad_token_id"),
        **others,
    )


def _classifier_scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores: Tensor = model(**batch).logits
    return scores.T


def _yes_scores(yes: int) -> Score:
    def score(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        last: Tensor = model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
        return last[None, :, yes]

    return score


def _layer_scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores: Tensor = model(**batch)
    return scores
