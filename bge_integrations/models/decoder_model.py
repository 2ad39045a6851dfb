"""Decoder models: embedders that pool the last token, and the LLM rerankers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bge_integrations.errors import NotSupportedError
from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.decoder import Decoder
from bge_integrations.models.decoder_config import DecoderConfig
from bge_integrations.models.decoder_heads import LayerHeads, YesHead, YesNoHead
from bge_integrations.models.heads import truncate_and_normalize
from bge_integrations.models.interface import SequenceOutput
from bge_integrations.models.memory import check_room, memory_errors
from bge_integrations.models.model_files import ModelFiles
from bge_integrations.models.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bge_integrations.catalog import Head
    from bge_integrations.models.image_format import ImageFormat
    from bge_integrations.models.interface import OutputSpec, TokenSequence
    from bge_integrations.models.placement import Placement

#: The scoring heads by their name in the family's row; embedders have none.
_HEADS: Mapping[Head, type[YesHead] | type[YesNoHead] | type[LayerHeads]] = {
    "yes": YesHead,
    "yes_no": YesNoHead,
    "layerwise": LayerHeads,
}
#: The tensors that a tied language model shares.
_TIED = ("embed_tokens.weight", "lm_head.weight")


class DecoderModel:
    """A `Model` (see interface.py) with a decoder backbone.

    Args:
        folder: The checkpoint, or a LoRA adapter.
        head: The head of its family.
        is_causal: Whether its family is causal; config.json can also say that a model is not.
        placement: The device, dtype and kernels.
        layers: Number of layers to load (for rerankers that can stop early); None loads all.
        base: The checkpoint that the adapter is merged into.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json requires something that this backbone does not support.
        OutOfMemoryError: The weights do not fit in memory.
    """

    multi_vector_size = 0
    image_format: ImageFormat | None = None

    def __init__(
        self,
        folder: Path,
        head: Head,
        is_causal: bool,
        placement: Placement,
        layers: int | None = None,
        base: Path | None = None,
    ) -> None:
        self.placement = placement
        files = ModelFiles(folder, base)
        self.config = DecoderConfig.read(files.config, is_causal)
        self.tokenizer = TextTokenizer(files.tokenizer, self.config.vocabulary_size)
        self.hidden_size = self.config.hidden_size
        self.max_length = self.config.max_length
        self.vocabulary_size = self.config.vocabulary_size
        self.is_causal = self.config.is_causal
        self.tokenizer.check_fits(folder, self.vocabulary_size)
        if head in ("yes", "yes_no") and self.config.tied and files.adapter and files.adapter.changes(*_TIED):
            raise NotSupportedError(
                f"{folder} changes the token embeddings or the output layer, which are one tensor in its base",
                advice="merge it with peft's merge_and_unload(), save the result, and load that folder",
            )
        self._check_room(folder, layers)
        with torch.inference_mode(), memory_errors(), files.weights() as weights:
            self._decoder = Decoder(weights, self.config, layers, placement)
            make = _HEADS.get(head)
            self._head = make(weights, files.config, self.config, self.tokenizer, placement) if make else None

    def _check_room(self, folder: Path, layers: int | None) -> None:
        """Reject a model that does not fit in the free memory, before any weights are read."""
        count = self.config.layers if layers is None else layers
        smaller = ["bfloat16"] if self.placement.device.type == "cuda" else ["bfloat16", "int8"]
        sizes = {dtype: self.config.weight_bytes(count, dtype) for dtype in smaller}
        check_room(str(folder), self.config.weight_bytes(count, self.placement.dtype), self.placement.device, sizes)

    def run(
        self, sequences: Sequence[TokenSequence], spec: OutputSpec, between_layers: Callable[[], None]
    ) -> list[SequenceOutput]:
        """Compute one output per sequence; see `Model.run`."""
        cutoffs = spec.cutoff_layers or (len(self._decoder.layers),)
        with torch.inference_mode(), memory_errors():
            batch = PackedBatch.pack(sequences, self.placement.device, self.is_causal)
            states = self._decoder(batch, between_layers, cutoffs, dict(spec.compression))
            if spec.logit:
                head = self._head
                assert head is not None
                logits = [head(state, cutoff, i) for i, (state, cutoff) in enumerate(zip(states, cutoffs, strict=True))]
                outputs = [SequenceOutput(logit=row) for row in torch.stack(logits, 1).cpu().numpy()]
            else:
                dense = truncate_and_normalize(states[0], spec.dim, spec.normalize).cpu().numpy()
                outputs = [SequenceOutput(dense=row) for row in dense]
            return batch.in_given_order(outputs)
