"""Small batches on CUDA, replayed as recorded graphs: the 200 kernels of a query are launched at once.

What it is worth is not measured yet; `benchmarks/gpu.py` measures a lone query with and without it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from bge_integrations.models.batch import PackedBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from bge_integrations.models.encoder import Encoder

#: Numbers of tokens that graphs are recorded for; a batch takes the next larger one.
SIZES = (32, 64, 128, 256)
#: A batch of more sequences is computed without.
_SEQUENCES = 8


class FixedBatch:
    """A batch whose tensors stay in their place, as a recorded graph needs: others are copied into it.

    Behind the sequences of the batch that was put in comes one over the tokens that are left, then empty ones.

    Args:
        tokens: So many; at first they are one sequence.
        device: Where they are.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        ids, self._types, positions = (torch.zeros(tokens, dtype=torch.int64, device=device) for _ in range(3))
        cumulative = torch.full((_SEQUENCES + 2,), tokens, dtype=torch.int32, device=device)
        cumulative[0] = 0
        # no sequence is longer than all tokens together, which is what attention needs to know of the lengths
        self.batch = PackedBatch(ids, self._types, positions, cumulative, lengths=(tokens,), order=(0,))

    def put(self, batch: PackedBatch) -> None:
        """Copy a batch of at most so many tokens and eight sequences; what is behind it keeps what was there."""
        tokens, ends = len(batch.ids), len(batch.cumulative)
        self.batch.ids[:tokens] = batch.ids
        self._types[:tokens] = 0 if batch.types is None else batch.types
        self.batch.positions[:tokens] = batch.positions
        self.batch.cumulative[:ends] = batch.cumulative
        self.batch.cumulative[ends:] = len(self.batch.ids)


class _Graph:
    """The encoder's kernels for one number of tokens."""

    def __init__(self, encoder: Encoder, tokens: int, device: torch.device) -> None:
        self._fixed = FixedBatch(tokens, device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # libraries get their working memory at the first call, which can't be recorded
                    encoder(self._fixed.batch, _go_on)
            torch.cuda.current_stream().wait_stream(stream)
            # what other threads do with CUDA does not end the recording, unless they synchronise the whole device; the
            # outer block gives this thread its stream back even where it fails
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self._hidden = encoder(self._fixed.batch, _go_on)

    def __call__(self, batch: PackedBatch, rows: Tensor | None) -> Tensor:
        self._fixed.put(batch)
        self._graph.replay()
        return self._hidden[: len(batch.ids)].clone() if rows is None else self._hidden[rows]


class GraphedEncoder:
    """An encoder in bfloat16 or float16 on CUDA, with a graph for each size of small batches, recorded when first met.

    A graph that can't be recorded, or gives other numbers than the encoder, is not used; a warning says so.
    """

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self._encoder, self._device = encoder, device
        self._graphs: dict[int, _Graph] = {}
        self._is_usable = True

    def __call__(self, batch: PackedBatch, between_layers: Callable[[], None], rows: Tensor | None = None) -> Tensor:
        """As the encoder; a small batch is over before anything could be done between its layers."""
        size = next((size for size in SIZES if len(batch.ids) <= size), None)
        if size is None or len(batch.lengths) > _SEQUENCES or not self._is_usable:
            return self._encoder(batch, between_layers, rows)
        if size in self._graphs:
            return self._graphs[size](batch, rows)
        expected = self._encoder(batch, between_layers, rows)
        if not expected.isfinite().all():  # nothing to compare with
            return expected
        try:
            graph = _Graph(self._encoder, size, self._device)
            difference = float((graph(batch, rows) - expected).abs().max() / expected.abs().max())
        except RuntimeError as error:
            self._give_up(f"could not be recorded ({error})")
            return expected
        if not difference < 0.05:  # both are rounded to 8 or 11 bits, in each layer
            self._give_up(f"gave numbers that differ by {difference:.2g} of the largest")
            return expected
        self._graphs[size] = graph
        return expected

    def _give_up(self, why: str) -> None:
        self._is_usable = False
        self._graphs.clear()
        warnings.warn(f"a CUDA graph {why}; short texts are computed without, a little more slowly", stacklevel=2)


def _go_on() -> None:
    """A recorded encoder lets nothing pass."""
