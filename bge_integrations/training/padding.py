"""Token ids of different lengths as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.interface import TokenSequence


def padded(sequences: Sequence[TokenSequence], pad_id: int, side: Literal["left", "right"]) -> dict[str, Tensor]:
    """Return `input_ids`, `attention_mask` and, if a sequence has types, `token_type_ids`.

    Args:
        sequences: The token ids.
        pad_id: Fills up the ids; the mask and the types are filled up with 0.
        side: Where to pad.

    Returns:
        Tensors by name, int64 (sequences, tokens).
    """

    def pad(rows: list[np.ndarray], value: int = 0) -> Tensor:
        tensors = [torch.from_numpy(row.astype(np.int64)) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)

    ids = [sequence.ids for sequence in sequences]
    batch = {"input_ids": pad(ids, pad_id), "attention_mask": pad([np.ones_like(row) for row in ids])}
    if any(sequence.types is not None for sequence in sequences):
        types = [np.zeros_like(each.ids) if each.types is None else each.types for each in sequences]
        batch["token_type_ids"] = pad(types)
    return batch
