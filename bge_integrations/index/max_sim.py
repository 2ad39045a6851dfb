"""Max-sim of one query with stored multi-vectors, computed on all cores without holding the interpreter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from bge_integrations.errors import ClosedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.codes import Codec, Products

T = TypeVar("T")
S = TypeVar("S")

#: Rows multiplied at a time. All products have this shape, so that no score depends on the other candidates, and two
#: blocks of 1024 dimensions stay in a core's cache.
_BLOCK_ROWS = 2048
_CORES = os.cpu_count() or 1


class Rows(Protocol):
    """The codes of several documents, one after the other.

    Attributes:
        offsets: int64 (documents + 1,), where each document begins; each has at least one row.
    """

    offsets: NDArray[np.int64]

    def read(self, begin: int, codes: NDArray[np.uint8]) -> None:
        """Copy the rows from `begin` on to `codes`, (n, bytes)."""


class MaxSim:
    """Scores documents by their codes. Its threads are shared by all callers, so any number of them can wait.

    Args:
        codec: How the vectors are stored.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._pool = ThreadPoolExecutor(_CORES, "bge-max-sim")
        self._buffers = threading.local()

    def scores(self, query: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """Return Σ_i max_j q_i · p_j for each document, float32 (documents,).

        Args:
            query: (tokens, width).
            rows: The documents.
        """
        products = self._codec.products(query)
        best = np.maximum.reduce(self.map(lambda first: self._best(products, rows, first), range(_CORES)))
        # each document in a row of its own, because numpy's order of adding depends on the layout
        total: NDArray[np.float32] = np.ascontiguousarray((best * products.scale[:, None]).T).sum(axis=1)
        return total

    def map(self, function: Callable[[T], S], items: Sequence[T]) -> list[S]:
        """Return the function's results for all items, computed in the threads."""
        return [result.result() for result in [self._submit(function, item) for item in items]]

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def _submit(self, function: Callable[[T], S], item: T) -> Future[S]:
        try:
            return self._pool.submit(function, item)
        except RuntimeError as error:  # the threads have ended, also because the interpreter exits
            raise ClosedError("the index was closed", advice="open it again") from error

    def _best(self, products: Products, rows: Rows, first: int) -> NDArray[np.float32]:
        """Return the maxima, (query tokens, documents), over every `_CORES`-th block, beginning with the first."""
        offsets = rows.offsets
        best = np.full((len(products.scale), len(offsets) - 1), -np.inf, np.float32)
        codes = self._buffer()
        for begin in range(first * _BLOCK_ROWS, int(offsets[-1]), _CORES * _BLOCK_ROWS):
            end = min(begin + _BLOCK_ROWS, int(offsets[-1]))
            rows.read(begin, codes[: end - begin])
            found = products.multiply(codes)[:, : end - begin]
            documents = slice(
                int(np.searchsorted(offsets, begin, "right")) - 1, int(np.searchsorted(offsets, end, "left"))
            )
            starts = np.maximum(offsets[documents] - begin, 0)
            np.maximum(best[:, documents], np.maximum.reduceat(found, starts, axis=1), out=best[:, documents])
        return best

    def _buffer(self) -> NDArray[np.uint8]:
        """Return this thread's room for a block of codes. Fresh memory would take longer than the products."""
        if not hasattr(self._buffers, "codes"):
            self._buffers.codes = np.zeros((_BLOCK_ROWS, self._codec.row_bytes), np.uint8)
        codes: NDArray[np.uint8] = self._buffers.codes
        return codes
