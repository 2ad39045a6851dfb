"""Batches limited by total size and number of items."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches_of(
    items: Iterable[T], size_of: Callable[[T], int], max_size: int, max_items: int = sys.maxsize
) -> Iterator[list[T]]:
    """Yield lists of at most `max_items` items and `max_size` in total. A larger item gets its own list."""
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (total + size > max_size or len(batch) == max_items):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
