"""Flows: code that encodes texts, written once as a generator, and run synchronously or asynchronously.

The generator yields `Encode` requests, receives `Embeddings`, and returns the result of the flow. Between two requests,
it may block to read files or query a storage engine: `arun` runs these steps in threads.

    def total_weight(texts: list[str]) -> Flow[float]:
        encoded = yield Encode(texts, {"sparse": True})
        return float(encoded.sparse.values.sum())

    run(total_weight(texts), embedder)
    await arun(total_weight(texts), embedder)
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bge_integrations.reporting import TruncatedTexts

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder, Input
    from bge_integrations.outputs import Embeddings

T = TypeVar("T")


@dataclass(frozen=True)
class Encode:
    """A request to encode texts.

    Attributes:
        texts: The texts, and images if the model takes them.
        settings: Keywords of `Embedder.encode`.
        ids: The ids of the texts, for a warning about truncated ones; None if they have none.
    """

    texts: Iterable[Input]
    settings: dict[str, Any]
    ids: Sequence[str] | None = None


Flow = Generator[Encode, "Embeddings", T]


def run(flow: Flow[T], embedder: Embedder) -> T:
    """Run a flow to its end and return its result."""
    try:
        with TruncatedTexts() as truncated:
            step = _advance(flow, None)
            while isinstance(step, Encode):
                truncated.ids = step.ids
                step = _advance(flow, embedder.encode(step.texts, **step.settings))
            return step.value
    finally:
        flow.close()


async def arun(flow: Flow[T], embedder: Embedder) -> T:
    """Async version of `run`; does not block the event loop. If cancelled, a step in a thread still finishes."""
    with TruncatedTexts() as truncated:
        step = await asyncio.to_thread(_advance, flow, None)
        while isinstance(step, Encode):
            truncated.ids = step.ids
            try:
                encoded = await embedder.aencode(step.texts, **step.settings)
            except BaseException:
                flow.close()  # safe, because no thread is inside the flow here
                raise
            step = await asyncio.to_thread(_advance, flow, encoded)
        return step.value


@dataclass(frozen=True)
class _Result(Generic[T]):
    value: T


def _advance(flow: Flow[T], encoded: Embeddings | None) -> Encode | _Result[T]:
    """Run a flow to its next request or its end. The end is a value, because coroutines can't raise StopIteration."""
    try:
        return next(flow) if encoded is None else flow.send(encoded)
    except StopIteration as end:
        return _Result(end.value)
