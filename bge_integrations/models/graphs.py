"""CUDA graphs for small batches: the 200 kernels of a query are launched at once.

The gain is not measured yet; `benchmarks/gpu.py` measures a lone query with and without graphs.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import torch

from bge_integrations.errors import PerformanceWarning
from bge_integrations.models.batch import PackedBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from bge_integrations.models.encoder import Encoder

#: Numbers of tokens to record graphs for; a batch uses the next larger one.
SIZES = (32, 64, 128, 256)
#: Maximum sequences of a batch that uses a graph.
_SEQUENCES = 8

logger = logging.getLogger(__name__)


class FixedBatch:
    """A batch whose tensors keep their addresses, which a recorded graph requires; other batches are copied into it.

    The copied sequences are followed by one sequence with the remaining tokens, and then by empty ones.

    Args:
        tokens: Number of tokens, which initially form one sequence.
        device: The device of the tensors.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        ids, self._types, positions = (torch.zeros(tokens, dtype=torch.int64, device=device) for _ in range(3))
        cumulative = torch.full((_SEQUENCES + 2,), tokens, dtype=torch.int32, device=device)
        cumulative[0] = 0
        # attention needs an upper bound on the lengths: no sequence is longer than all tokens together
        self.batch = PackedBatch(ids, self._types, positions, cumulative, lengths=(tokens,), order=(0,))

    def put(self, batch: PackedBatch) -> None:
        """Copy in a batch of at most `tokens` tokens and eight sequences; the other tokens keep their old values."""
        tokens, ends = len(batch.ids), len(batch.cumulative)
        self.batch.ids[:tokens] = batch.ids
        self._types[:tokens] = 0 if batch.types is None else batch.types
        self.batch.positions[:tokens] = batch.positions
        self.batch.cumulative[:ends] = batch.cumulative
        self.batch.cumulative[ends:] = len(self.batch.ids)


class _Graph:
    """The encoder's recorded kernels for a fixed number of tokens."""

    def __init__(self, encoder: Encoder, tokens: int, device: torch.device) -> None:
        self._fixed = FixedBatch(tokens, device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # on first use libraries allocate working memory, which can't be recorded
                    encoder(self._fixed.batch, _do_nothing)
            torch.cuda.current_stream().wait_stream(stream)
            # other threads may use CUDA during the recording unless they synchronise the whole device; the outer block
            # restores this thread's stream even if the recording fails
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self._hidden = encoder(self._fixed.batch, _do_nothing)

    def __call__(self, batch: PackedBatch, rows: Tensor | None) -> Tensor:
        self._fixed.put(batch)
        self._graph.replay()
        return self._hidden[: len(batch.ids)].clone() if rows is None else self._hidden[rows]


class GraphedEncoder:
    """An encoder in bfloat16 or float16 on CUDA that records a graph for each size of small batches at its first use.

    If a graph can't be recorded, or its outputs differ from the encoder's, a warning is issued and no graphs are used.
    """

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self._encoder, self._device = encoder, device
        self._graphs: dict[int, _Graph] = {}
        self._is_usable = True

    def __call__(self, batch: PackedBatch, between_layers: Callable[[], None], rows: Tensor | None = None) -> Tensor:
        """Compute as `Encoder` does; with a graph, `between_layers` is not called."""
        size = next((size for size in SIZES if len(batch.ids) <= size), None)
        if size is None or len(batch.lengths) > _SEQUENCES or not self._is_usable:
            return self._encoder(batch, between_layers, rows)
        if size in self._graphs:
            return self._graphs[size](batch, rows)
        expected = self._encoder(batch, between_layers, rows)
        if not expected.isfinite().all():  # a graph can't be compared with these
            return expected
        try:
            graph = _Graph(self._encoder, size, self._device)
            difference = float((graph(batch, rows) - expected).abs().max() / expected.abs().max())
        except RuntimeError as error:
            self._give_up(f"could not be recorded ({error})")
            return expected
        if not difference < 0.05:  # both are rounded to 8 or 11 bits in each layer
            self._give_up(f"returned numbers that differ by {difference:.2g} of the largest")
            return expected
        self._graphs[size] = graph
        logger.debug("recorded a CUDA graph for batches of up to %d tokens", size)
        return expected

    def _give_up(self, why: str) -> None:
        self._is_usable = False
        self._graphs.clear()
        message = f"a CUDA graph {why}; short texts are computed without graphs, a little more slowly"
        logger.warning(message)
        warnings.warn(message, PerformanceWarning, stacklevel=2)


def _do_nothing() -> None:
    """Run nothing between the layers of a recorded encoder."""
