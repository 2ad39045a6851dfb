"""The loss of rerankers: cross-entropy over each query's passages, with distillation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def reranking_loss(scores: Tensor, sizes: Sequence[int], teacher: Tensor | None = None) -> Tensor:
    """Return the loss of a batch of groups, each with the query's positive passage first.

    Each layer is trained to prefer the positive. With a teacher, each layer also learns the softmax of the teacher's
    scores; without one, each layer but the last learns the last layer's softmax. The parts are summed over the layers
    and averaged over the groups.

    Args:
        scores: (layers, pairs), the scores of all groups after each trained layer. Most models have one layer.
        sizes: The number of pairs of each group; they can differ.
        teacher: (pairs,), the teacher's scores.

    Returns:
        A scalar, float32.
    """
    layers = [_grouped(layer.float(), sizes).log_softmax(-1) for layer in scores]
    hard = torch.stack([-layer[:, 0].mean() for layer in layers]).sum()
    if teacher is not None:
        targets, learners = _grouped(teacher.float(), sizes).softmax(-1), layers
    else:
        targets, learners = layers[-1].detach().exp(), layers[:-1]
    return hard + sum(_soft_cross_entropy(layer, targets) for layer in learners)


def _grouped(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return (groups, largest size); smaller groups are filled up with -inf, which a softmax ignores."""
    return pad_sequence(list(torch.split(values, list(sizes))), batch_first=True, padding_value=-math.inf)


def _soft_cross_entropy(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    known = log_probabilities.masked_fill(log_probabilities.isneginf(), 0)  # -inf · 0 would be NaN
    return -(targets * known).sum(-1).mean()
