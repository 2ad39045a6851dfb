"""The module that trains an embedder: a backbone, pooling, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bge_integrations.training.embedder_losses import contrastive_loss, pair_scores, positives

if TYPE_CHECKING:
    from bge_integrations.catalog import Pooling
    from bge_integrations.training.embedder_settings import Distillation


@dataclass(frozen=True)
class LossSettings:
    """How the loss of a batch is computed.

    Attributes:
        temperature: Scores are divided by it.
        normalize: Whether vectors have unit length.
        distillation: How a teacher's scores count.
        cross_device: Whether the passages of all processes are negatives.
        matryoshka_dims: The loss is the mean over vectors cut to these dimensions; empty: whole vectors.
        sub_batch_size: Sequences that are encoded at a time; None: all of a batch.
    """

    temperature: float = 0.02
    normalize: bool = True
    distillation: Distillation = "kl_div"
    cross_device: bool = False
    matryoshka_dims: Sequence[int] = ()
    sub_batch_size: int | None = None


class EmbedderModel(nn.Module):
    """A backbone whose forward pass is the loss of a batch.

    Args:
        backbone: One of transformers' models.
        pooling: How token states become one vector.
        loss: How the loss is computed.
    """

    def __init__(self, backbone: Any, pooling: Pooling, loss: LossSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._pooling = pooling
        self._settings = loss

    def forward(
        self,
        query_input_ids: Tensor,
        query_attention_mask: Tensor,
        passage_input_ids: Tensor,
        passage_attention_mask: Tensor,
        teacher_scores: Tensor | None = None,
        own_negatives: bool = False,
    ) -> dict[str, Tensor]:
        """Return {"loss": the mean loss over queries}.

        Args:
            query_input_ids, query_attention_mask: (queries, tokens).
            passage_input_ids, passage_attention_mask: (queries × group size, tokens); a group begins with its positive.
            teacher_scores: (queries, group size).
            own_negatives: Compare a query only with the passages of its group.
        """
        queries = self.encode(query_input_ids, query_attention_mask)
        passages = self.encode(passage_input_ids, passage_attention_mask)
        teacher = None if teacher_scores is None else teacher_scores.float().softmax(-1)
        # in bfloat16, scores divided by a temperature would be rounded to quarters
        with torch.autocast(query_input_ids.device.type, enabled=False):
            return {"loss": self._loss(queries, passages, teacher, own_negatives)}

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the representations of sequences, each with one row per sequence.

        With `sub_batch_size`, they are encoded in pieces, and a piece's activations are computed again in the backward
        pass, so memory holds those of one piece only.
        """
        size = self._settings.sub_batch_size
        if size is None:
            return self._represent(ids, mask)
        pieces = [
            checkpoint(self._represent, ids[start : start + size], mask[start : start + size], use_reentrant=False)
            for start in range(0, len(ids), size)
        ]
        return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))

    def _represent(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return (sequences, width): the pooled states, in float32."""
        return (self._pool(self._states(ids, mask), mask).float(),)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's states, (sequences, tokens, width)."""
        states: Tensor = self.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        if self._pooling == "mean":
            weights = mask.unsqueeze(-1).float()
            return (states.float() * weights).sum(1) / weights.sum(1)
        rows = torch.arange(len(mask), device=mask.device)
        if self._pooling == "cls":
            return states[rows, mask.argmax(1)]  # the first token that is not padding
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
        return states[rows, last]

    def _loss(
        self, queries: tuple[Tensor, ...], passages: tuple[Tensor, ...], teacher: Tensor | None, own_negatives: bool
    ) -> Tensor:
        return self._dense_loss(queries[0], passages[0], teacher, own_negatives)

    def _dense_loss(self, queries: Tensor, passages: Tensor, teacher: Tensor | None, own_negatives: bool) -> Tensor:
        """Return the loss of pooled vectors, the mean over the Matryoshka dimensions."""
        settings = self._settings
        group_size, first = len(passages) // len(queries), 0
        if settings.cross_device and not own_negatives and torch.distributed.is_initialized():
            first = torch.distributed.get_rank() * len(passages)
            passages = _gather(passages)
        targets = positives(len(queries), group_size, own_negatives, first, queries.device)
        losses = [
            contrastive_loss(
                self._dense_scores(queries[:, :dim], passages[:, :dim], own_negatives),
                targets,
                teacher,
                settings.distillation,
            )
            for dim in settings.matryoshka_dims or (None,)
        ]
        return torch.stack(losses).mean()

    def _dense_scores(self, queries: Tensor, passages: Tensor, own_negatives: bool) -> Tensor:
        if self._settings.normalize:
            queries, passages = F.normalize(queries, dim=-1), F.normalize(passages, dim=-1)
        return pair_scores(queries, passages, own_negatives) / self._settings.temperature


def _gather(passages: Tensor) -> Tensor:
    """Return the passages of all processes. Their gradients flow back, so that all processes together compute the
    gradient that one process would."""
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(passages))  # type: ignore[no-untyped-call]
