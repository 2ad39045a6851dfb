"""Splits a call into the batches that a server accepts, and sends several of them at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bge_integrations.client.images import sent_size
from bge_integrations.core.image_inputs import ImageInput
from bge_integrations.errors import InvalidInputError
from bge_integrations.progress import progress_bar

if TYPE_CHECKING:
    from bge_integrations.client.calls import Dialect

T = TypeVar("T")
Input = TypeVar("Input", bound=str | ImageInput | tuple[str, str])
#: Maximum inputs and bytes of a request, and requests of a call that are on their way at the same time. Together they
#: keep a GPU busy, and are computed on a CPU before a request times out. A longer text is sent alone.
_INPUTS, _BYTES, _IN_FLIGHT = 64, 1 << 16, 4
#: Bytes of an image's item in a request beside the image and its text.
_FIELDS = 32


async def in_batches(
    inputs: Sequence[Input],
    dialect: Dialect,
    ask: Callable[[Sequence[Input]], Awaitable[T]],
    *,
    prefix: str = "",
    show_progress: bool = False,
) -> list[T]:
    """Return the server's answers to the batches of `inputs`, in their order. The first error cancels the rest.

    Args:
        inputs: Texts, images or pairs.
        dialect: Has the server's limits.
        ask: Sends one batch.
        prefix: What it may prepend to each input.
        show_progress: Show a progress bar.
    """
    parts = list(_split(inputs, dialect.max_batch, dialect.max_bytes, _bytes(prefix)))  # raises before anything is sent
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


def _split(inputs: Sequence[Input], max_batch: int, max_bytes: int, overhead: int) -> Iterator[slice]:
    """Yield slices of `inputs` that are within a server's limits, with `overhead` more bytes per input.

    Raises:
        InvalidInputError: A single text or pair is larger than a request may be.
    """
    most, soft_limit = min(max_batch, _INPUTS), min(max_bytes, _BYTES)
    first = size = 0
    for i, each in enumerate(inputs):
        own = _bytes(each) + overhead
        if own > max_bytes:
            is_image = isinstance(each, ImageInput)
            raise InvalidInputError(
                f"{each.name if isinstance(each, ImageInput) else 'an input'} has {own} bytes, and the server accepts "
                f"{max_bytes} in a request",
                advice=f"{'scale the image down' if is_image else 'split the text'}, or raise the server's "
                "--payload-limit",
            )
        if i > first and (i - first == most or size + own > soft_limit):
            yield slice(first, i)
            first, size = i, 0
        size += own
    if inputs:
        yield slice(first, len(inputs))


def _bytes(each: str | ImageInput | tuple[str, str]) -> int:
    """Return the size of an input in a request's JSON, with the comma after it."""
    if isinstance(each, ImageInput):
        return sent_size(each) + _bytes(each.text or "") + _FIELDS
    return len(json.dumps(each, ensure_ascii=False).encode()) + 1
