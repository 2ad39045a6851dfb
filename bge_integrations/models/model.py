"""Whole models: a trunk and its heads, from a checkpoint folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bge_integrations.errors import CheckpointError
from bge_integrations.models.checkpoint import Weights, read_config
from bge_integrations.models.encoder import Encoder, EncoderConfig
from bge_integrations.models.graphs import GraphedEncoder
from bge_integrations.models.heads import ClassificationHead, M3Heads, pool, pooled_rows, shorten
from bge_integrations.models.kernels import computed_dtype, memory_errors
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.outputs import SparseVector

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bge_integrations.catalog import Family, Pooling
    from bge_integrations.models.batch import PackedBatch


@dataclass(frozen=True)
class Wanted:
    """What to compute for a text. Texts that want the same share batches.

    Attributes:
        pooling: Pooling of the dense vector, or None for no dense vector.
        sparse, multi_vector: Whether to compute these (bge-m3 only).
        dim: Columns kept of dense and multi-vectors; None keeps all.
        normalize: Whether these are made unit vectors, after `dim`.
        logit: Whether to compute the relevance logit (rerankers only).
        cutoff_layers: After how many layers (LLM rerankers that can stop early), ascending; empty is after all.
        compression: (layer, ratio) pairs (the lightweight reranker only): see `Decoder`.
    """

    pooling: Pooling | None = None
    sparse: bool = False
    multi_vector: bool = False
    dim: int | None = None
    normalize: bool = True
    logit: bool = False
    cutoff_layers: tuple[int, ...] = ()
    compression: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class TextOutput:
    """What came out for one text: dense float32 (dim,), sparse weights, multi-vectors float32 (tokens, dim), logit."""

    dense: np.ndarray | None = None
    sparse: SparseVector | None = None
    multi_vector: np.ndarray | None = None
    logit: np.ndarray | None = None

    def is_finite(self) -> bool:
        arrays = (self.dense, self.multi_vector, self.logit, self.sparse.values if self.sparse else None)
        return all(bool(np.isfinite(array).all()) for array in arrays if array is not None)


class EncoderModel:
    """An encoder trunk with the heads of its family.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json asks for something this trunk does not do.
    """

    #: Whether a token sees only what stands before it.
    is_causal = False

    def __init__(
        self,
        folder: Path,
        family: Family,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.config = EncoderConfig.read(read_config(folder))
        self.tokenizer = TextTokenizer(folder)
        if self.tokenizer.vocabulary_size > self.config.vocabulary_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {self.tokenizer.vocabulary_size} tokens but the weights only "
                f"{self.config.vocabulary_size}; they are not of the same model"
            )
        with torch.inference_mode(), memory_errors():
            weights = Weights(folder)
            encoder = Encoder(weights, self.config, device, dtype)
            is_graphed = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
            self._encoder = GraphedEncoder(encoder, device) if is_graphed else encoder
            computed = computed_dtype(dtype)
            self.m3 = M3Heads(folder, self.config.hidden_size, device, computed) if family == "m3" else None
            is_reranker = family == "cross_encoder"
            self._classifier = ClassificationHead(weights, self.config, device, computed) if is_reranker else None

    def __call__(self, batch: PackedBatch, wanted: Wanted, between_layers: Callable[[], None]) -> list[TextOutput]:
        """One output per sequence, in batch order; `between_layers` is called between any two.

        Raises:
            OutOfMemoryError: The batch does not fit in memory.
        """
        with torch.inference_mode(), memory_errors():
            if wanted.logit:
                assert self._classifier is not None
                logits = self._classifier(self._encoder(batch, between_layers, batch.first_tokens)).cpu().numpy()
                return [TextOutput(logit=logit) for logit in logits]
            size = len(batch.lengths)
            needs_all = wanted.sparse or wanted.multi_vector or wanted.pooling is None
            rows = None if needs_all or wanted.pooling is None else pooled_rows(wanted.pooling, batch)
            hidden = self._encoder(batch, between_layers, rows)
            dense: list[np.ndarray | None] = [None] * size
            sparse: list[SparseVector | None] = [None] * size
            vectors: list[np.ndarray | None] = [None] * size
            if wanted.pooling is not None:
                states = hidden if rows is not None else pool(hidden, wanted.pooling, batch)
                dense = list(shorten(states, wanted.dim, wanted.normalize).cpu().numpy())
            if wanted.sparse or wanted.multi_vector:
                assert self.m3 is not None
                if wanted.sparse:
                    sparse = list(self.m3.sparse(hidden, batch, self.tokenizer.special_ids))
                if wanted.multi_vector:
                    vectors = list(self.m3.multi_vector(hidden, batch, wanted.dim, wanted.normalize))
            return [TextOutput(d, s, v) for d, s, v in zip(dense, sparse, vectors, strict=True)]
