"""Texts of different lengths laid end to end, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True, eq=False, slots=True)
class TokenSequence:
    """One tokenised text or pair, special tokens included.

    Attributes:
        ids: Token ids, int32 (length,).
        types: Token type ids, int32 (length,); None where all are 0.
    """

    ids: np.ndarray
    types: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring sequences of one length: `count` of them from token `start` on, `length` tokens each."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class PackedBatch:
    """Sequences laid end to end, longest first. All tensors are int64 but `cumulative` (int32), on one device.

    Attributes:
        ids: (tokens,) token ids.
        types: (tokens,) token type ids, or None where all are 0.
        positions: (tokens,) place of each token in its own sequence, from 0.
        cumulative: (sequences + 1,) where each sequence begins; the last entry is the number of tokens.
        lengths: Tokens per sequence, in batch order.
        order: `order[i]` is the place that the i-th sequence of the batch had among those given to `pack`.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    positions: torch.Tensor
    cumulative: torch.Tensor
    lengths: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def pack(cls, sequences: list[TokenSequence], device: torch.device) -> PackedBatch:
        """Lay `sequences` end to end. Sorting makes equal lengths neighbours, which share an attention call."""
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        chosen = [sequences[i] for i in order]
        lengths = np.fromiter(map(len, chosen), dtype=np.int64, count=len(chosen))
        cumulative = np.zeros(len(chosen) + 1, dtype=np.int64)
        np.cumsum(lengths, out=cumulative[1:])
        positions = np.arange(cumulative[-1]) - np.repeat(cumulative[:-1], lengths)
        types = None
        if any(sequence.types is not None for sequence in chosen):
            zeros = np.zeros(int(lengths.max()), dtype=np.int32)
            types = np.concatenate([s.types if s.types is not None else zeros[: len(s)] for s in chosen])

        def on_device(array: np.ndarray) -> torch.Tensor:
            tensor = torch.from_numpy(array.astype(np.int64, copy=False))
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        return cls(
            ids=on_device(np.concatenate([s.ids for s in chosen])),
            types=None if types is None else on_device(types),
            positions=on_device(positions),
            cumulative=on_device(cumulative).to(torch.int32),
            lengths=tuple(int(n) for n in lengths),
            order=tuple(order),
        )

    def keep(self, tokens: torch.Tensor) -> PackedBatch:
        """The batch of those tokens, bool (tokens,): every sequence keeps one or more, positions begin at 0 again."""
        counts = torch.segment_reduce(tokens.float(), "sum", offsets=self.cumulative.long(), unsafe=True).long()
        cumulative = F.pad(counts.cumsum(0), (1, 0))
        positions = torch.arange(int(cumulative[-1]), device=tokens.device)
        return PackedBatch(
            ids=self.ids[tokens],
            types=None if self.types is None else self.types[tokens],
            positions=positions - cumulative[:-1].repeat_interleave(counts),
            cumulative=cumulative.to(torch.int32),
            lengths=tuple(counts.tolist()),
            order=self.order,
        )

    @property
    def first_tokens(self) -> torch.Tensor:
        """(sequences,) index of each sequence's first token."""
        return self.cumulative[:-1].long()

    @property
    def last_tokens(self) -> torch.Tensor:
        """(sequences,) index of each sequence's last token."""
        return self.cumulative[1:].long() - 1

    def runs(self) -> list[Run]:
        """The batch cut into runs of equal length."""
        found: list[Run] = []
        start = 0
        for length, group in groupby(self.lengths):
            count = sum(1 for _ in group)
            found.append(Run(start, count, length))
            start = found[-1].end
        return found
