"""The module that trains bge-m3's three representations together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bge_integrations.models.checkpoint import M3_HEADS
from bge_integrations.models.weights import fitting, read_state
from bge_integrations.training.embedder_losses import contrastive_loss, positives, soft_cross_entropy
from bge_integrations.training.embedder_model import EmbedderModel, LossSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bge_integrations.catalog import Pooling

#: What a sparse score and a sparse loss count beside the dense and the multi-vector one.
_SPARSE_SCORE, _SPARSE_LOSS = 0.3, 0.1


class M3Model(EmbedderModel):
    """bge-m3: the losses of dense, sparse and multi-vector scores and of their sum, which is also their teacher.

    Args:
        backbone, pooling, loss: See `EmbedderModel`.
        sparse, multi_vector: The heads, from hidden states to a weight and to a vector per token.
        special_ids: Token ids that have no lexical weight.
        self_distillation: Whether the sum of the scores teaches its parts.
        start_step: The teaching begins after this many batches.
    """

    _special_ids: Tensor
    #: Batches that were trained on; a checkpoint has it, so a resumed training keeps counting.
    batches: Tensor

    def __init__(
        self,
        backbone: Any,
        pooling: Pooling,
        loss: LossSettings,
        sparse: nn.Linear,
        multi_vector: nn.Linear,
        special_ids: Sequence[int],
        self_distillation: bool,
        start_step: int = 0,
    ) -> None:
        super().__init__(backbone, pooling, loss)
        self.sparse_linear = sparse
        self.colbert_linear = multi_vector
        self._self_distillation = self_distillation
        self._start_step = start_step
        self.register_buffer("_special_ids", torch.tensor(special_ids), persistent=False)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def save_heads(self, folder: Path) -> None:
        """Save the two heads as FlagEmbedding does."""
        for name, head in zip(M3_HEADS, (self.sparse_linear, self.colbert_linear), strict=True):
            torch.save({key: tensor.cpu().contiguous() for key, tensor in head.state_dict().items()}, folder / name)

    def _represent(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the pooled states, the tokens and their weights, the tokens' vectors and which of them count."""
        states = self._states(ids, mask)
        weights = torch.relu(self.sparse_linear(states)).squeeze(-1).float()
        weights = weights.masked_fill(torch.isin(ids, self._special_ids), 0)
        vectors = F.normalize(self.colbert_linear(states[:, 1:]).float(), dim=-1) * mask[:, 1:, None]
        return self._pool(states, mask).float(), ids, weights, vectors, mask[:, 1:]

    def _loss(
        self, queries: tuple[Tensor, ...], passages: tuple[Tensor, ...], teacher: Tensor | None, own_negatives: bool
    ) -> Tensor:
        count = len(queries[0])
        group_size = len(passages[0]) // count
        dense = self._dense_scores(queries[0], passages[0], own_negatives)
        sparse = _of_groups(sparse_scores(queries, passages), own_negatives) / self._settings.temperature
        multi = multi_vector_scores(queries, passages, own_negatives) / self._settings.temperature
        ensemble = dense + _SPARSE_SCORE * sparse + multi
        targets = positives(count, group_size, own_negatives, 0, dense.device)
        ensemble_loss, sparse_loss, multi_loss = (
            contrastive_loss(scores, targets, teacher, self._settings.distillation)
            for scores in (ensemble, sparse, multi)
        )
        dense_loss = self._dense_loss(queries[0], passages[0], teacher, own_negatives)
        loss = (dense_loss + ensemble_loss + _SPARSE_LOSS * sparse_loss + multi_loss) / 4
        self.batches += 1
        if not self._self_distillation or int(self.batches) <= self._start_step:
            return loss
        lesson = ensemble.detach().softmax(-1)
        taught = [soft_cross_entropy(scores, lesson) for scores in (dense, sparse, multi)]
        return (loss + (taught[0] + _SPARSE_LOSS * taught[1] + taught[2]) / 3) / 2


def sparse_scores(queries: tuple[Tensor, ...], passages: tuple[Tensor, ...]) -> Tensor:
    """Return the dot products of lexical weights, (queries, passages).

    A token's weight in a text is that of its heaviest occurrence. Only tokens that occur in a query are compared, so
    memory does not depend on the vocabulary.
    """
    vocabulary = torch.unique(queries[1])
    return _lexical(queries, vocabulary) @ _lexical(passages, vocabulary).T


def _lexical(texts: tuple[Tensor, ...], vocabulary: Tensor) -> Tensor:
    """Return the largest weight of each token of a sorted vocabulary in each text, (texts, vocabulary)."""
    ids, weights = texts[1], texts[2]
    columns = torch.searchsorted(vocabulary, ids).clamp(max=len(vocabulary) - 1)
    weights = torch.where(vocabulary[columns] == ids, weights, 0)
    return weights.new_zeros(len(ids), len(vocabulary)).scatter_reduce(1, columns, weights, "amax")


def multi_vector_scores(queries: tuple[Tensor, ...], passages: tuple[Tensor, ...], own_negatives: bool) -> Tensor:
    """Return the mean over a query's tokens of the best match among a passage's tokens.

    (queries, passages), or with `own_negatives` (queries, group size). Each query is compared on its own, and again in
    the backward pass, so memory holds the similarities of one query only.
    """
    vectors, mask = queries[3], queries[4]
    group_size = len(passages[0]) // len(vectors)
    rows = []
    for i, query in enumerate(vectors):
        compared = passages[3][i * group_size : (i + 1) * group_size] if own_negatives else passages[3]
        rows.append(checkpoint(_best_matches, query, compared, use_reentrant=False))
    return torch.stack(rows) / mask.sum(1, keepdim=True)


def _best_matches(query: Tensor, passages: Tensor) -> Tensor:
    """Return the sum over the query's tokens of their best match in each passage, (passages,)."""
    return torch.einsum("qd,pkd->pqk", query, passages).amax(-1).sum(-1)


def _of_groups(scores: Tensor, own_negatives: bool) -> Tensor:
    """Keep each query's scores with the passages of its own group."""
    if not own_negatives:
        return scores
    rows = torch.arange(len(scores), device=scores.device)
    return scores.reshape(len(scores), len(scores), -1)[rows, rows]


def load_heads(folder: Path, hidden_size: int, multi_vector_dim: int | None) -> tuple[nn.Linear, nn.Linear]:
    """Return the sparse and the multi-vector head of a folder; without their files, they start at random.

    Args:
        folder: The checkpoint.
        hidden_size: The width of the states.
        multi_vector_dim: The width of new multi-vectors; None: that of the states.

    Raises:
        CheckpointError: A file is damaged, or only one of the two exists.
    """
    if not any((folder / name).exists() for name in M3_HEADS):
        return nn.Linear(hidden_size, 1), nn.Linear(hidden_size, multi_vector_dim or hidden_size)
    heads = []
    for name, width in zip(M3_HEADS, (1, -1), strict=True):
        state = read_state(folder / name)
        weight = fitting(folder / name, "weight", state.get("weight", torch.empty(0)), (width, hidden_size))
        bias = fitting(folder / name, "bias", state.get("bias", torch.empty(0)), (len(weight),))
        head = nn.Linear(hidden_size, len(weight))
        head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        heads.append(head)
    return heads[0], heads[1]
