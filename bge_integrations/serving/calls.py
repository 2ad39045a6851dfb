"""What the routes of all dialects do: find the model, check the inputs, and call the core."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.core import report
from bge_integrations.errors import TextTooLongError
from bge_integrations.serving.kinds import kind_of_name, split_alias
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from fastapi import Request
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder, Input, TextKind
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.outputs import Embeddings
    from bge_integrations.serving.exchange import Exchange
    from bge_integrations.serving.pool import ServedModel
    from bge_integrations.serving.service import Service

#: Names the kind of the texts in requests that have no field for it.
KIND_HEADER = "x-bge-kind"


def service_of(request: Request) -> Service:
    """Return the service that answers this request."""
    service: Service = request.app.state.service
    return service


def exchange_of(request: Request) -> Exchange:
    """Return the exchange that this request belongs to."""
    exchange: Exchange = request.state.exchange
    return exchange


def check_batch(request: Request, inputs: Sequence[object], limit: int, name: str) -> None:
    """Refuse an empty batch or one above the limit, and tell the metrics whether it is one.

    Raises:
        Refusal: With status 400 or 413.
    """
    if not inputs:
        raise Refusal(400, f"{name} is empty; send at least one item", "empty", param=name)
    if len(inputs) > limit:
        raise Refusal(
            413, f"{name} has {len(inputs)} items, and {limit} is the limit; split it", "batch_too_large", param=name
        )
    exchange_of(request).method = "single" if len(inputs) == 1 else "batch"


def check_images(inputs: Sequence[Input], embedder: Embedder, name: str) -> None:
    """Refuse images for an embedder that takes none.

    Raises:
        Refusal: With status 424.
    """
    if not embedder.takes_images and not all(isinstance(each, str) for each in inputs):
        raise Refusal(424, f"{name} takes no images", "not_supported", param="model")


@dataclass(frozen=True)
class TextKindChoice:
    """Which instruction the texts get: that of a kind, or a text of the request's or the server's own."""

    kind: TextKind | None
    instruction: str | None = None


def choose_kind(request: Request, named: str | None, argument: str, alias: TextKind | None = None) -> TextKindChoice:
    """Return the kind of a request's texts: by its field, its model's alias, its header, or else the server's default.

    Raises:
        InvalidInputError: The name of the kind is unknown.
    """
    if named is not None:
        return TextKindChoice(kind_of_name(named, argument))
    if alias is not None:
        return TextKindChoice(alias)
    if (header := request.headers.get(KIND_HEADER)) is not None:
        return TextKindChoice(kind_of_name(header, KIND_HEADER))
    settings = service_of(request).settings
    if settings.default_prompt is not None:
        return TextKindChoice("query", settings.default_prompt)
    if settings.default_prompt_name is not None:
        return TextKindChoice(kind_of_name(settings.default_prompt_name, "default_prompt_name"))
    return TextKindChoice(None)


def find_embedder(request: Request, name: str | None) -> tuple[ServedModel, TextKind | None]:
    """Return the embedding model with this name, and the kind that its alias names.

    Raises:
        Refusal: There is none.
    """
    models = service_of(request).models
    if name is None:
        return models.find(None, "embedder"), None
    plain, alias = split_alias(name)
    return models.find(plain, "embedder"), alias


async def embed(
    request: Request,
    served: ServedModel,
    texts: Sequence[Input],
    choice: TextKindChoice,
    *,
    name: str,
    truncate: bool | None,
    dimensions: int | None = None,
    max_length: int | None = None,
    dense: bool = True,
    sparse: bool = False,
    multi_vector: bool = False,
    normalize: bool = True,
) -> Embeddings:
    """Embed texts in one pass.

    Args:
        request: The request.
        served: The model.
        texts: The texts, and the images as bytes.
        choice: Their instruction.
        name: The field that the texts come from, for messages.
        truncate: Whether to truncate texts that are too long; None means as the server is set.
        dimensions: Dimensions to keep; None keeps all.
        max_length: Maximum number of tokens of a text; None means the model's own.
        dense, sparse, multi_vector, normalize: As in `Embedder.encode`.

    Raises:
        Refusal: A text is too long (status 413), or the model can't be used.
        BGEError: As `Embedder.encode`.
    """
    service = service_of(request)
    async with service.models.use(served) as model:
        check_images(texts, model, served.id)
        if (sparse or multi_vector) and not model.has_sparse:
            raise Refusal(
                424, f"{served.id} has no sparse and multi-vectors; bge-m3 has", "not_supported", param="model"
            )
        if dimensions is not None and dimensions > model.dimension:
            message = f"{dimensions} dimensions were requested, but {served.id} has {model.dimension}"
            raise Refusal(422, message, "invalid_value")
        embedder = await service.models.variant(served, choice.instruction, dimensions)
        with too_long_named(request, name, max_length or embedder.max_length):
            return await embedder.aencode(
                texts,
                kind=choice.kind,
                max_length=max_length,
                dense=dense,
                sparse=sparse,
                multi_vector=multi_vector,
                normalize=normalize,
                on_truncate=on_truncate(service, truncate),
            )


async def score(
    request: Request,
    served: ServedModel,
    pairs: Sequence[tuple[str, str]],
    *,
    name: str,
    normalize: bool,
    truncate: bool | None,
    max_length: int | None = None,
    query_max_length: int | None = None,
) -> NDArray[np.float32]:
    """Score pairs; the last cut-off's scores if the reranker has several. `name` and `truncate` are as in `embed`.

    Raises:
        Refusal: A pair is too long (status 413), or the model can't be used.
        BGEError: As `Reranker.score`.
    """
    service = service_of(request)
    reranker: Reranker
    async with service.models.use(served) as reranker:
        with too_long_named(request, name, max_length or reranker.max_length, query_max_length):
            scores = await reranker.ascore(
                pairs,
                normalize=normalize,
                max_length=max_length,
                query_max_length=query_max_length,
                on_truncate=on_truncate(service, truncate),
            )
    return scores if scores.ndim == 1 else scores[-1]


def on_truncate(service: Service, truncate: bool | None) -> Any:
    """Return `on_truncate` of the core. Truncation is reported in each answer, so that it needs no warning."""
    return "ignore" if (service.settings.auto_truncate if truncate is None else truncate) else "error"


@contextmanager
def too_long_named(request: Request, name: str, max_length: int, query_max_length: int | None = None) -> Iterator[None]:
    """Turn TextTooLongError into a refusal that says which inputs are too long."""
    try:
        yield
    except TextTooLongError as error:
        raise too_long(name, exchange_of(request).report.truncated, max_length, query_max_length) from error


def too_long(name: str, positions: Sequence[int], max_length: int, query_max_length: int | None = None) -> Refusal:
    """Return the refusal of inputs that are longer than `max_length` tokens, or whose query exceeds its own limit."""
    items = ", ".join(f"{name}[{position}]" for position in positions[:10])
    more = f" and {len(positions) - 10} more" if len(positions) > 10 else ""
    of_query = "" if query_max_length is None else f", or its query than {query_max_length}"
    message = f"{items}{more}: longer than {max_length} tokens{of_query}; shorten it, or allow truncation"
    return Refusal(413, message, "context_length_exceeded", param=name)


@contextmanager
def separate_report(request: Request) -> Iterator[report.CallReport]:
    """Collect a report of its own, whose positions count other inputs than the request's; its counts are added."""
    with report.collect() as separate:
        try:
            yield separate
        finally:
            exchange_of(request).report.add(separate)
