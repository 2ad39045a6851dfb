"""RetroMAE: an encoder learns to put a whole text into its first token, from which a weak decoder rebuilds the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bge_integrations.optional import needed_by

with needed_by(__name__, "bge-integrations[train]"):
    import torch
    import torch.nn.functional as F
    from torch import nn

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class RetroMAE(nn.Module):
    """A masked language model with a decoder of one layer.

    The encoder reads a text of which some words are masked. The decoder sees only the state of the encoder's first
    token, at every position, and at each position a different half of the original words.

    Args:
        backbone: A BERT or RoBERTa model with its masked language modelling head, which the decoder shares.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone
        layer = type(self._encoder.encoder.layer[0])
        self.decoder = layer(backbone.config)
        self.decoder.apply(backbone._init_weights)

    def forward(
        self,
        encoder_input_ids: Tensor,
        attention_mask: Tensor,
        encoder_labels: Tensor,
        decoder_input_ids: Tensor,
        decoder_labels: Tensor,
        visible: Tensor,
    ) -> dict[str, Tensor]:
        """Return the sum of the encoder's and the decoder's cross-entropy.

        Args:
            encoder_input_ids: Texts with masked words, (texts, tokens).
            attention_mask: 1 for tokens, 0 for padding.
            encoder_labels: The original ids of what the encoder must predict; -100 elsewhere.
            decoder_input_ids: The original ids.
            decoder_labels: The original ids without the first and last token; -100 elsewhere.
            visible: Whether the decoder sees a token (last dimension) when it predicts another one.

        Returns:
            `loss` and its parts `encoder_loss` and `decoder_loss`, scalars.
        """
        states = self._encoder(encoder_input_ids, attention_mask=attention_mask).last_hidden_state
        encoder_loss = self._loss(states, encoder_labels)
        first = states[:, :1]
        embed = self._encoder.embeddings
        original = torch.cat([first, embed(input_ids=decoder_input_ids)[:, 1:]], 1)
        rebuilt = self._decode(embed(inputs_embeds=first.expand_as(states)), original, visible)
        decoder_loss = self._loss(rebuilt, decoder_labels)
        return {"loss": encoder_loss + decoder_loss, "encoder_loss": encoder_loss, "decoder_loss": decoder_loss}

    @property
    def _encoder(self) -> Any:
        return self.backbone.base_model

    def _decode(self, queries: Tensor, originals: Tensor, visible: Tensor) -> Tensor:
        """Run the decoder's layer, whose queries differ from its keys and values; all (texts, tokens, hidden)."""
        layer: Any = self.decoder
        heads_count: int = self.backbone.config.num_attention_heads
        attention = layer.attention.self

        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], heads_count, -1).transpose(1, 2)

        # what sees nothing is padding, and no token at all would make it NaN
        visible = visible | ~visible.any(-1, keepdim=True)
        context = F.scaled_dot_product_attention(
            heads(attention.query(queries)),
            heads(attention.key(originals)),
            heads(attention.value(originals)),
            attn_mask=visible[:, None],
            dropout_p=attention.dropout.p if self.training else 0.0,
        )
        attended = layer.attention.output(context.transpose(1, 2).flatten(2), queries)
        decoded: Tensor = layer.output(layer.intermediate(attended), attended)
        return decoded

    def _loss(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of the labelled tokens; only their logits are computed."""
        known = labels != -100
        head: Any = self.backbone.cls if hasattr(self.backbone, "cls") else self.backbone.lm_head
        return F.cross_entropy(head(states[known]).float(), labels[known])
