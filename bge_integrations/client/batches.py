"""Splits a call into the batches that a server accepts, and sends several of them at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bge_integrations.errors import InvalidInputError
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from bge_integrations.client.calls import Dialect

T = TypeVar("T")
Input = TypeVar("Input", str, tuple[str, str])
#: Requests of one call that are on their way at the same time.
_IN_FLIGHT = 8


async def in_batches(
    inputs: Sequence[Input], dialect: Dialect, ask: Callable[[Sequence[Input]], Awaitable[T]], show_progress: bool
) -> list[T]:
    """Return the server's answers to the batches of `inputs`, in their order. The first error cancels the rest.

    Args:
        inputs: Texts or pairs.
        dialect: Has the server's limits.
        ask: Sends one batch.
        show_progress: Show a progress bar.
    """
    parts = list(_split(inputs, dialect.max_batch, dialect.max_bytes))  # raises before anything is sent
    free = asyncio.Semaphore(_IN_FLIGHT)

    async def send(part: slice, bar: Any) -> T:
        async with free:
            answer = await ask(inputs[part])
        bar.update(part.stop - part.start)
        return answer

    with progress_bar(len(inputs), "text", show_progress and bool(inputs)) as bar:
        tasks = [asyncio.create_task(send(part, bar)) for part in parts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


def _split(inputs: Sequence[Input], max_batch: int, max_bytes: int) -> Iterator[slice]:
    """Yield slices of `inputs` that are within a server's limits.

    Raises:
        InvalidInputError: A single text or pair is larger than a request may be.
    """
    first = size = 0
    for i, each in enumerate(inputs):
        own = len(json.dumps(each, ensure_ascii=False).encode()) + 1
        if own > max_bytes:
            raise InvalidInputError(
                f"an input has {own} bytes, and the server accepts {max_bytes} in a request",
                advice="split the text, or raise the server's --payload-limit",
            )
        if i - first == max_batch or size + own > max_bytes:
            yield slice(first, i)
            first, size = i, 0
        size += own
    if inputs:
        yield slice(first, len(inputs))
