"""The interface between `core/` and the backends in `models/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from bge_integrations.catalog import Pooling
    from bge_integrations.models.image_format import ImageFormat
    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.outputs import SparseVector

#: The libraries that can run a model.
Backend = Literal["torch"]
#: What computes float linear layers on the CPU: "onednn" prepacks the weights for oneDNN, "torch" is torch's own.
CpuKernels = Literal["onednn", "torch"]


@dataclass(frozen=True, eq=False, slots=True)
class TokenSequence:
    """One tokenised text or pair, special tokens included, or an image, or an image with a text.

    Attributes:
        ids: Token ids, int32 (length,).
        types: Token type ids, int32 (length,); None if all are 0.
        shared: Length of a prefix that other sequences may have in common. A causal model computes it once for all
            sequences of a batch that share it.
        pixels: The image, uint8 (3, size, size) in the model's `image_format`; None without one.
        image_tokens: Number of tokens that the image takes.
    """

    ids: np.ndarray
    types: np.ndarray | None = None
    shared: int = 0
    pixels: np.ndarray | None = None
    image_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ids) + self.image_tokens


@dataclass(frozen=True)
class OutputSpec:
    """What to compute for a sequence. Sequences with equal specs may share a batch.

    Attributes:
        pooling: Pooling of the dense vector; None computes no dense vector.
        sparse, multi_vector: Whether to compute these (bge-m3 only).
        dim: Columns to keep of dense and multi-vectors; None keeps all.
        normalize: Whether to scale dense and multi-vectors to unit length, after keeping `dim` columns.
        logit: Whether to compute the relevance logit (rerankers only).
        cutoff_layers: Score after each of these numbers of layers, ascending (LLM rerankers that can stop early); if
            empty, after the last layer.
        compression: (layer, ratio) pairs: before that layer, merge every `ratio` passage states into one (the
            lightweight reranker only).
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
class SequenceOutput:
    """The output for one sequence; anything that its spec does not request is None.

    Attributes:
        dense: float32 (dim,).
        sparse: Lexical weights by token id.
        multi_vector: float32 (tokens, dim).
        logit: float32 scalar, or (cutoff_layers,).
    """

    dense: np.ndarray | None = None
    sparse: SparseVector | None = None
    multi_vector: np.ndarray | None = None
    logit: np.ndarray | None = None

    def is_finite(self) -> bool:
        """Return whether all numbers are finite."""
        arrays = (self.dense, self.multi_vector, self.logit, self.sparse.values if self.sparse else None)
        return all(bool(np.isfinite(array).all()) for array in arrays if array is not None)


class Model(Protocol):
    """A checkpoint in memory, ready to run on one device.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        hidden_size: Width of the dense vector before truncation.
        max_length: Maximum number of tokens of a sequence.
        vocabulary_size: Number of token ids: the width of the sparse vectors.
        multi_vector_size: Width of the multi-vectors; 0 if the model has no sparse and multi-vector heads.
        is_causal: Whether a token attends only to the tokens before it, so that common prefixes can be computed once.
        image_format: How it sees images; None if it takes only texts.
    """

    tokenizer: TextTokenizer
    hidden_size: int
    max_length: int
    vocabulary_size: int
    multi_vector_size: int
    is_causal: bool
    image_format: ImageFormat | None

    def run(
        self, sequences: Sequence[TokenSequence], spec: OutputSpec, between_layers: Callable[[], None]
    ) -> list[SequenceOutput]:
        """Compute one output per sequence, in their order. Called by one thread at a time.

        Args:
            sequences: Sequences of any lengths; the backend packs or pads them itself.
            spec: What to compute.
            between_layers: Called between any two layers if the backend can do so. An exception in it ends the run.

        Raises:
            OutOfMemoryError: The batch does not fit in memory.
        """
