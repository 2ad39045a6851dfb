"""Packed batches: sequences of different lengths, concatenated without padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bge_integrations.models.interface import TokenSequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Consecutive sequences of equal length: `count` sequences of `length` tokens, the first at token `start`."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Sharing:
    """Which tokens of a batch are computed once for several sequences, as int64 tensors on the batch's device.

    Attributes:
        computed: (computed tokens,) indices of the computed tokens in the batch, ascending.
        source: (tokens,) for each token of the batch, its index among the computed tokens.
    """

    computed: torch.Tensor
    source: torch.Tensor

    @classmethod
    def of(cls, sequences: list[TokenSequence], cumulative: np.ndarray, device: torch.device) -> Sharing | None:
        """Find concatenated sequences that have a common prefix; return None if there are none."""
        owner = np.arange(cumulative[-1])  # for each token, the index of the token it equals
        first: dict[bytes, int] = {}
        for sequence, begin in zip(sequences, cumulative[:-1].tolist(), strict=True):
            if sequence.shared:
                source = first.setdefault(sequence.ids[: sequence.shared].tobytes(), begin)
                owner[begin : begin + sequence.shared] = np.arange(source, source + sequence.shared)
        computed = np.flatnonzero(owner == np.arange(len(owner)))
        if len(computed) == len(owner):
            return None
        tensors = (torch.from_numpy(array).to(device) for array in (computed, np.searchsorted(computed, owner)))
        return cls(*tensors)

    def keep(self, computed: torch.Tensor) -> Sharing:
        """Return the sharing for a batch with only the computed tokens in this mask, bool (computed tokens,)."""
        tokens = computed[self.source]
        return Sharing((tokens.cumsum(0) - 1)[self.computed[computed]], (computed.cumsum(0) - 1)[self.source[tokens]])


@dataclass(frozen=True)
class PackedBatch:
    """Concatenated sequences, longest first. All tensors are int64 except `cumulative` (int32), on one device.

    Attributes:
        ids: (tokens,) token ids.
        types: (tokens,) token type ids, or None if all are 0.
        positions: (tokens,) position of each token in its own sequence, counted from 0.
        cumulative: (sequences + 1,) the index of each sequence's first token; the last entry is the number of tokens.
        lengths: Tokens per sequence, in batch order.
        order: `order[i]` is the index of the batch's i-th sequence in the list that was passed to `pack`.
        sharing: Which tokens a decoder computes once for several sequences; None if there are none.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    positions: torch.Tensor
    cumulative: torch.Tensor
    lengths: tuple[int, ...]
    order: tuple[int, ...]
    sharing: Sharing | None = None

    @classmethod
    def pack(cls, sequences: Sequence[TokenSequence], device: torch.device, is_causal: bool = False) -> PackedBatch:
        """Concatenate `sequences`, sorted by length, so that sequences of equal length share an attention call.

        `is_causal` says whether a token attends only to the tokens before it, so that a common prefix is computed once.
        """
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
            sharing=Sharing.of(chosen, cumulative, device) if is_causal else None,
        )

    def keep(self, computed: torch.Tensor) -> PackedBatch:
        """Return a batch of the computed tokens in this mask, at least one per sequence; positions restart at 0."""
        tokens = computed if self.sharing is None else computed[self.sharing.source]
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
            sharing=None if self.sharing is None else self.sharing.keep(computed),
        )

    def in_given_order(self, outputs: Sequence[T]) -> list[T]:
        """Return one output per sequence, reordered from batch order to the order of the list passed to `pack`."""
        return [outputs[i] for i in np.argsort(self.order)]

    def only_computed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Select the rows of the computed tokens from one row per token."""
        return tokens if self.sharing is None else tokens[self.sharing.computed]

    def of_each_token(self, computed: torch.Tensor) -> torch.Tensor:
        """Expand one row per computed token to one row per token."""
        return computed if self.sharing is None else computed[self.sharing.source]

    @property
    def first_tokens(self) -> torch.Tensor:
        """(sequences,) index of each sequence's first token."""
        return self.cumulative[:-1].long()

    @property
    def last_tokens(self) -> torch.Tensor:
        """(sequences,) index of each sequence's last token."""
        return self.cumulative[1:].long() - 1

    @cached_property
    def length_groups(self) -> list[LengthGroup]:
        """Runs of sequences of equal length, in batch order."""
        groups: list[LengthGroup] = []
        start = 0
        for length, group in groupby(self.lengths):
            count = sum(1 for _ in group)
            groups.append(LengthGroup(start, count, length))
            start = groups[-1].end
        return groups
