"""From hidden states to outputs: pooling, bge-m3's two extra heads, one-logit classification."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from bge_integrations.errors import CheckpointError
from bge_integrations.models.weights import fitting, read_state
from bge_integrations.outputs import SparseVector

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bge_integrations.catalog import Pooling
    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.encoder_config import EncoderConfig
    from bge_integrations.models.weights import Weights


def pooled_rows(pooling: Pooling, batch: PackedBatch) -> Tensor | None:
    """Return the index of the one token per sequence that the pooling reads; None if it reads all tokens."""
    if pooling == "cls":
        return batch.first_tokens
    return batch.last_tokens if pooling == "last_token" else None


def pool(hidden: Tensor, pooling: Pooling, batch: PackedBatch) -> Tensor:
    """Pool (tokens, width) to (sequences, width): the first token, the last, or the mean of all (Σh·m / Σm)."""
    rows = pooled_rows(pooling, batch)
    if rows is not None:
        return hidden[rows]
    return torch.segment_reduce(hidden.float(), "mean", offsets=batch.cumulative.long(), axis=0, unsafe=True)


def truncate_and_normalize(vectors: Tensor, dim: int | None, normalize: bool) -> Tensor:
    """Return the first `dim` columns (None: all) in float32, then scaled to unit length if `normalize` is set."""
    vectors = vectors[..., :dim].float()
    return F.normalize(vectors, dim=-1) if normalize else vectors


class M3Heads:
    """bge-m3's two extra heads, one value and one vector per token.

    Raises:
        CheckpointError: A head's file is missing (heads are never initialized at random) or does not fit the backbone.
    """

    def __init__(self, folder: Path, hidden_size: int, device: torch.device, dtype: torch.dtype) -> None:
        def read(name: str, out: int) -> tuple[Tensor, Tensor]:
            file = folder / name
            state = read_state(file)
            tensors = []
            for key, shape in (("weight", (out, hidden_size)), ("bias", (out,))):
                if key not in state:
                    raise CheckpointError(f"{file} lacks the tensor {key}")
                tensors.append(fitting(file, key, state[key], shape).to(device, dtype))
            return tensors[0], tensors[1]

        self._sparse = read("sparse_linear.pt", 1)
        self._multi_vector = read("colbert_linear.pt", -1)
        self.multi_vector_size = len(self._multi_vector[0])

    def sparse(self, hidden: Tensor, batch: PackedBatch, special_ids: np.ndarray) -> list[SparseVector]:
        """Return {token id: max of relu(w·h + b) over its occurrences} by sequence, without zeros and special ids."""
        token_weights = torch.relu(F.linear(hidden, *self._sparse)).squeeze(-1).float().cpu().numpy()
        ids = batch.ids.cpu().numpy()
        sequence = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
        kept = ((token_weights > 0) | ~np.isfinite(token_weights)) & ~np.isin(ids, special_ids)
        ids, sequence, token_weights = ids[kept], sequence[kept], token_weights[kept]
        order = np.lexsort((ids, sequence))
        ids, sequence, token_weights = ids[order], sequence[order], token_weights[order]
        first = np.ones(len(ids), dtype=bool)
        first[1:] = (ids[1:] != ids[:-1]) | (sequence[1:] != sequence[:-1])
        starts = np.flatnonzero(first)
        values = np.maximum.reduceat(token_weights, starts) if len(starts) else token_weights
        bounds = np.searchsorted(sequence[starts], np.arange(len(batch.lengths) + 1))
        indices = ids[starts].astype(np.int32)
        return [SparseVector(indices[begin:end], values[begin:end]) for begin, end in itertools.pairwise(bounds)]

    def multi_vector(self, hidden: Tensor, batch: PackedBatch, dim: int | None, normalize: bool) -> list[np.ndarray]:
        """Return float32 (length - 1, width) per sequence: all tokens except the first."""
        kept = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        kept[batch.first_tokens] = False
        vectors = truncate_and_normalize(F.linear(hidden[kept], *self._multi_vector), dim, normalize).cpu().numpy()
        ends = np.cumsum([length - 1 for length in batch.lengths])
        return np.split(vectors, ends[:-1])


class ClassificationHead:
    """One logit from the first token: dense, tanh, linear, as in BERT and XLM-R classifiers.

    Raises:
        CheckpointError: The head is missing, or has more than one output.
    """

    def __init__(self, weights: Weights, config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        hidden = config.hidden_size
        if "classifier.out_proj.weight" in weights:
            dense, out = "classifier.dense", "classifier.out_proj"
        else:
            dense, out = weights.prefix_of("pooler.dense.weight") + "pooler.dense", "classifier"

        def take(name: str, *shape: int) -> Tensor:
            return weights.take(name, *shape).to(device, dtype, copy=True)

        self._dense = take(f"{dense}.weight", hidden, hidden), take(f"{dense}.bias", hidden)
        self._out = take(f"{out}.weight", 1, hidden), take(f"{out}.bias", 1)

    def __call__(self, first_tokens: Tensor) -> Tensor:
        """Map (sequences, hidden) to float32 logits (sequences,)."""
        return F.linear(torch.tanh(F.linear(first_tokens, *self._dense)), *self._out).squeeze(-1).float()
