"""The scoring heads of the LLM rerankers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.models.decoder_config import cutoffs_of

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from bge_integrations.models.decoder_config import DecoderConfig
    from bge_integrations.models.placement import Placement
    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.models.weights import Weights


class YesHead:
    """The language model's logit for the first token of "Yes" as the next token."""

    def __init__(
        self,
        weights: Weights,
        stored: dict[str, Any],
        config: DecoderConfig,
        tokenizer: TextTokenizer,
        placement: Placement,
    ) -> None:
        self._yes = _output_rows(weights, config, placement, [first_token(tokenizer, "Yes")])[0]
        self._cap = config.logit_cap

    def __call__(self, states: Tensor, cutoff: int, index: int) -> Tensor:
        """Map (sequences, hidden) to float32 logits (sequences,)."""
        return _capped((states @ self._yes).float(), self._cap)


class YesNoHead:
    """The language model's logit for the first token of "yes" as the next token, minus that of "no".

    Its sigmoid is the probability of "yes" if these are the only two answers.
    """

    def __init__(
        self,
        weights: Weights,
        stored: dict[str, Any],
        config: DecoderConfig,
        tokenizer: TextTokenizer,
        placement: Placement,
    ) -> None:
        answers = [first_token(tokenizer, answer) for answer in ("yes", "no")]
        self._answers = _output_rows(weights, config, placement, answers).float()
        self._cap = config.logit_cap

    def __call__(self, states: Tensor, cutoff: int, index: int) -> Tensor:
        """Map (sequences, hidden) to float32 logits (sequences,)."""
        # in bfloat16, two large logits would lose their difference
        yes, no = _capped(states.float() @ self._answers.T, self._cap).unbind(-1)
        return yes - no


class LayerHeads:
    """A linear head for the states after each of the upper layers.

    The published code of the lightweight reranker picks a head by the cut-off's index in the ascending list of
    cut-offs, so a single cut-off always uses the first head. Its published scores come from that code, so we do the
    same.
    """

    def __init__(
        self,
        weights: Weights,
        stored: dict[str, Any],
        config: DecoderConfig,
        tokenizer: TextTokenizer,
        placement: Placement,
    ) -> None:
        self._by_index = "layer_sep" in stored
        self._cutoffs = cutoffs_of(stored)
        self._cap = config.logit_cap
        kind = stored.get("head_type", "simple")
        if kind not in ("simple", "raw", "complex"):
            raise NotSupportedError(f"head_type {kind!r} is not supported")
        # heads of the size of the vocabulary expect states that are scaled as for the language model's own head
        self._scale = 1.0
        if kind != "simple":
            try:
                self._scale = float(stored["dim_model_base"]) / config.hidden_size
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise CheckpointError(f"config.json has no dim_model_base for head_type {kind!r}") from error
        self._rows = []
        for i in range(len(self._cutoffs)):
            prefix = f"{i}." if stored.get("head_multi", True) else ""  # else one head for all layers
            name = f"lm_head.{prefix}weight" if kind == "raw" else f"lm_head.{prefix}linear_head.weight"
            head = weights.take(name, -1, config.hidden_size)
            if len(head) > 1:
                head = head[first_token(tokenizer, "Yes")][None]
            self._rows.append(head[0].clone().to(placement.device, placement.compute_dtype))

    def __call__(self, states: Tensor, cutoff: int, index: int) -> Tensor:
        """Map (sequences, hidden) after `cutoff` layers, the `index`-th cut-off, to float32 logits (sequences,)."""
        row = self._rows[index if self._by_index else self._cutoffs.index(cutoff)]
        return _capped((states * self._scale @ row).float(), self._cap)


def _output_rows(weights: Weights, config: DecoderConfig, placement: Placement, tokens: list[int]) -> Tensor:
    """Return the language model's output weights of these tokens, (tokens, hidden)."""
    name = "lm_head.weight"
    if config.tied:  # the head shares the weights of the embeddings
        name = weights.prefix_of("embed_tokens.weight") + "embed_tokens.weight"
    rows = weights.take(name, config.vocabulary_size, config.hidden_size)
    return rows[tokens].to(placement.device, placement.compute_dtype)


def first_token(tokenizer: TextTokenizer, answer: str) -> int:
    """Return the first token of an answer, such as "Yes"."""
    return int(tokenizer.ids([answer])[0][0])


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)
