"""Whole decoder models: embedders that pool the last token, and the three kinds of LLM rerankers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.models.checkpoint import Weights, read_config
from bge_integrations.models.decoder import Decoder, DecoderConfig, cutoffs_of
from bge_integrations.models.heads import shorten
from bge_integrations.models.kernels import computed_dtype, memory_errors
from bge_integrations.models.memory import check_room
from bge_integrations.models.model import TextOutput
from bge_integrations.models.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from torch import Tensor

    from bge_integrations.catalog import Family
    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.model import Wanted


class DecoderModel:
    """A decoder trunk with the head of its family.

    Args:
        layers: How many of the layers to read (rerankers that can stop early); None reads all.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json asks for something this trunk does not do.
    """

    m3 = None

    def __init__(
        self, folder: Path, family: Family, device: torch.device, dtype: torch.dtype, layers: int | None
    ) -> None:
        self.device, self.dtype = device, dtype
        config = read_config(folder)
        self.config = DecoderConfig.read(config, is_causal=family != "bidirectional_decoder")
        self.is_causal = self.config.is_causal
        self.tokenizer = TextTokenizer(folder)
        if self.tokenizer.vocabulary_size > self.config.vocabulary_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {self.tokenizer.vocabulary_size} tokens but the weights only "
                f"{self.config.vocabulary_size}; they are not of the same model"
            )
        self._check_room(folder, layers)
        with torch.inference_mode(), memory_errors():
            weights = Weights(folder)
            self._decoder = Decoder(weights, self.config, layers, device, dtype)
            self._heads: YesHead | LayerHeads | None = None
            computed = computed_dtype(dtype)
            if family == "llm_reranker":
                self._heads = YesHead(weights, self.config, self.tokenizer, device, computed)
            elif family in ("layerwise_reranker", "lightweight_reranker"):
                self._heads = LayerHeads(weights, config, self.config, self.tokenizer, device, computed)

    def _check_room(self, folder: Path, layers: int | None) -> None:
        """Refuse, before anything is read, a model that does not fit in the memory that is free."""
        count = self.config.layers if layers is None else layers
        choices = [torch.bfloat16] if self.device.type == "cuda" else [torch.bfloat16, torch.int8]
        smaller = {str(dtype).removeprefix("torch."): self.config.weight_bytes(count, dtype) for dtype in choices}
        check_room(str(folder), self.config.weight_bytes(count, self.dtype), self.device, smaller)

    def __call__(self, batch: PackedBatch, wanted: Wanted, between_layers: Callable[[], None]) -> list[TextOutput]:
        """One output per sequence, in batch order; `between_layers` is called between any two.

        Raises:
            OutOfMemoryError: The batch does not fit in memory.
        """
        cutoffs = wanted.cutoff_layers or (len(self._decoder.layers),)
        with torch.inference_mode(), memory_errors():
            states = self._decoder(batch, between_layers, cutoffs, dict(wanted.compression))
            if wanted.logit:
                assert self._heads is not None
                places = range(len(cutoffs))
                logits = [self._heads(*found) for found in zip(states, cutoffs, places, strict=True)]
                return [TextOutput(logit=row) for row in torch.stack(logits, 1).cpu().numpy()]
            dense = shorten(states[0], wanted.dim, wanted.normalize).cpu().numpy()
            return [TextOutput(dense=row) for row in dense]


class YesHead:
    """The logit of the first token of "Yes", which the language model's head gives for the next token."""

    def __init__(
        self,
        weights: Weights,
        config: DecoderConfig,
        tokenizer: TextTokenizer,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        name = "lm_head.weight"
        if config.tied:  # the head shares the weights of the embeddings
            name = weights.prefix_of("embed_tokens.weight") + "embed_tokens.weight"
        rows = weights.take(name, config.vocabulary_size, config.hidden_size)
        self._yes = rows[yes_token(tokenizer)].clone().to(device, dtype)
        self._cap = config.logit_cap

    def __call__(self, states: Tensor, cutoff: int, place: int) -> Tensor:
        """(sequences, hidden) to float32 logits (sequences,)."""
        return capped((states @ self._yes).float(), self._cap)


class LayerHeads:
    """A linear head for the states after each of the upper layers.

    The lightweight reranker has heads per layer too, but is published with code that takes them by the place of the
    cut-off in the (ascending) list of cut-offs, so the first for a single one; the figures that it is known for come
    from that, and it is done here likewise.
    """

    def __init__(
        self,
        weights: Weights,
        stored: dict[str, Any],
        config: DecoderConfig,
        tokenizer: TextTokenizer,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._by_place = "layer_sep" in stored
        self._cutoffs = cutoffs_of(stored)
        self._cap = config.logit_cap
        kind = stored.get("head_type", "simple")
        if kind not in ("simple", "raw", "complex"):
            raise NotSupportedError(f"head_type {kind!r} is not supported")
        #: Heads of the size of the vocabulary see states as the language model's own head does.
        self._scale = 1.0
        if kind != "simple":
            try:
                self._scale = float(stored["dim_model_base"]) / config.hidden_size
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"config.json has no dim_model_base for head_type {kind!r}") from error
        self._rows = []
        for i in range(len(self._cutoffs)):
            place = f"{i}." if stored.get("head_multi", True) else ""  # else one head for all layers
            name = f"lm_head.{place}weight" if kind == "raw" else f"lm_head.{place}linear_head.weight"
            head = weights.take(name, -1, config.hidden_size)
            if len(head) > 1:
                head = head[yes_token(tokenizer)][None]
            self._rows.append(head[0].clone().to(device, dtype))

    def __call__(self, states: Tensor, cutoff: int, place: int) -> Tensor:
        """(sequences, hidden) after `cutoff` layers, the `place`-th cut-off, to float32 logits (sequences,)."""
        row = self._rows[place if self._by_place else self._cutoffs.index(cutoff)]
        return capped((states * self._scale @ row).float(), self._cap)


def yes_token(tokenizer: TextTokenizer) -> int:
    return int(tokenizer.ids(["Yes"])[0][0])


def capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)
