"""Encoder models: a BERT or XLM-R backbone and the head of its family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.encoder import Encoder
from bge_integrations.models.encoder_config import EncoderConfig
from bge_integrations.models.graphs import GraphedEncoder
from bge_integrations.models.heads import ClassificationHead, M3Heads, pool, pooled_rows, truncate_and_normalize
from bge_integrations.models.interface import SequenceOutput
from bge_integrations.models.memory import memory_errors
from bge_integrations.models.model_files import ModelFiles
from bge_integrations.models.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from bge_integrations.catalog import Head
    from bge_integrations.models.image_format import ImageFormat
    from bge_integrations.models.interface import OutputSpec, TokenSequence
    from bge_integrations.models.placement import Placement
    from bge_integrations.outputs import SparseVector


class EncoderModel:
    """A `Model` (see interface.py) with an encoder backbone.

    Args:
        folder: The checkpoint, or a LoRA adapter.
        head: The head of its family.
        placement: The device, dtype and kernels.
        base: The checkpoint that the adapter is merged into.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json requires something that this backbone does not support.
    """

    is_causal = False
    image_format: ImageFormat | None = None

    def __init__(self, folder: Path, head: Head, placement: Placement, base: Path | None = None) -> None:
        self.placement = placement
        files = ModelFiles(folder, base)
        self.config = EncoderConfig.read(files.config)
        self.tokenizer = TextTokenizer(files.tokenizer)
        self.hidden_size = self.config.hidden_size
        self.max_length = self.config.max_length
        self.vocabulary_size = self.config.vocabulary_size
        self.tokenizer.check_fits(folder, self.vocabulary_size)
        device, dtype = placement.device, placement.compute_dtype
        with torch.inference_mode(), memory_errors(), files.weights() as weights:
            encoder = Encoder(weights, self.config, placement)
            is_graphed = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
            self._encoder = GraphedEncoder(encoder, device) if is_graphed else encoder
            self._m3 = M3Heads(files.heads, self.hidden_size, device, dtype) if head == "m3" else None
            is_classifier = head == "classification"
            self._classifier = ClassificationHead(weights, self.config, device, dtype) if is_classifier else None
        self.multi_vector_size = self._m3.multi_vector_size if self._m3 else 0

    def run(
        self, sequences: Sequence[TokenSequence], spec: OutputSpec, between_layers: Callable[[], None]
    ) -> list[SequenceOutput]:
        """Compute one output per sequence; see `Model.run`."""
        with torch.inference_mode(), memory_errors():
            batch = PackedBatch.pack(sequences, self.placement.device)
            compute = self._score if spec.logit else self._embed
            return batch.in_given_order(compute(batch, spec, between_layers))

    def _score(self, batch: PackedBatch, spec: OutputSpec, between_layers: Callable[[], None]) -> list[SequenceOutput]:
        assert self._classifier is not None
        logits = self._classifier(self._encoder(batch, between_layers, batch.first_tokens)).cpu().numpy()
        return [SequenceOutput(logit=logit) for logit in logits]

    def _embed(self, batch: PackedBatch, spec: OutputSpec, between_layers: Callable[[], None]) -> list[SequenceOutput]:
        size = len(batch.lengths)
        needs_all = spec.sparse or spec.multi_vector or spec.pooling is None
        rows = None if needs_all or spec.pooling is None else pooled_rows(spec.pooling, batch)
        hidden = self._encoder(batch, between_layers, rows)
        dense: list[np.ndarray | None] = [None] * size
        sparse: list[SparseVector | None] = [None] * size
        vectors: list[np.ndarray | None] = [None] * size
        if spec.pooling is not None:
            states = hidden if rows is not None else pool(hidden, spec.pooling, batch)
            dense = list(truncate_and_normalize(states, spec.dim, spec.normalize).cpu().numpy())
        if spec.sparse or spec.multi_vector:
            assert self._m3 is not None
            if spec.sparse:
                sparse = list(self._m3.sparse(hidden, batch, self.tokenizer.special_ids))
            if spec.multi_vector:
                vectors = list(self._m3.multi_vector(hidden, batch, spec.dim, spec.normalize))
        return [SequenceOutput(d, s, v) for d, s, v in zip(dense, sparse, vectors, strict=True)]
