"""The losses of embedders, on scores that are already divided by the temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from bge_integrations.training.embedder_settings import Distillation


def contrastive_loss(scores: Tensor, targets: Tensor, teacher: Tensor | None, distillation: Distillation) -> Tensor:
    """Return the mean loss over queries: cross-entropy, with the teacher's part if there is a teacher.

    Args:
        scores: (queries, passages).
        targets: (queries,), the column of each query's positive; the columns after it are its negatives.
        teacher: (queries, group size), the teacher's distribution over each group; None if there is none.
        distillation: "kl_div" adds the cross-entropy between the teacher and the group's scores; "m3_kd_loss" instead
            takes each passage of the group as the target, weighted by the teacher.
    """
    if teacher is None:
        return F.cross_entropy(scores, targets)
    if distillation == "m3_kd_loss":
        return _loss_per_passage(scores, targets, teacher)
    columns = targets[:, None] + torch.arange(teacher.shape[1], device=targets.device)
    return F.cross_entropy(scores, targets) + soft_cross_entropy(scores.gather(1, columns), teacher)


def soft_cross_entropy(scores: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean cross-entropy between the teacher's distributions and the scores' softmax; both (n, m)."""
    return F.cross_entropy(scores, teacher)


def _loss_per_passage(scores: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
    """Sum over the group's passages; the passages before the one that is the target are left out of the softmax."""
    loss = scores.new_zeros(())
    for position in range(teacher.shape[1]):
        target = targets + position
        loss = loss + (teacher[:, position] * F.cross_entropy(scores, target, reduction="none")).mean()
        scores = scores.scatter(1, target[:, None], torch.finfo(scores.dtype).min)
    return loss


def pair_scores(queries: Tensor, passages: Tensor, own_negatives: bool) -> Tensor:
    """Return dot products of (queries, width) and (queries × group size, width).

    They are (queries, passages), or with `own_negatives` (queries, group size).
    """
    if own_negatives:
        return torch.einsum("qd,qgd->qg", queries, passages.reshape(len(queries), -1, passages.shape[-1]))
    return queries @ passages.T


def positives(queries: int, group_size: int, own_negatives: bool, first: int, device: torch.device) -> Tensor:
    """Return each query's column of its positive, if the group of query 0 begins at column `first`."""
    rows = torch.arange(queries, device=device)
    return torch.zeros_like(rows) if own_negatives else first + rows * group_size
