"""Finds out what a server is and which model it has, and returns it as an embedder or a reranker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bge_integrations import network_loop
from bge_integrations.client.address import Address
from bge_integrations.client.embedder import RemoteEmbedder
from bge_integrations.client.openai import OpenAIDialect
from bge_integrations.client.own import OwnDialect
from bge_integrations.client.reranker import RemoteReranker
from bge_integrations.client.tei import TEIDialect
from bge_integrations.client.transport import Transport
from bge_integrations.errors import InvalidInputError, ServerError

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind
    from bge_integrations.client.calls import Dialect, ServedModel


def connect_embedder(
    url: str,
    *,
    api_key: str | None,
    max_length: int | None,
    query_instruction: str | None,
    passage_instruction: str | None,
    truncate_dim: int | None,
    **local: Any,
) -> RemoteEmbedder:
    """Return the embedder behind a URL.

    Args:
        local: Settings of a local model, which must be None or False.

    Raises:
        InvalidInputError: A setting or the URL is invalid, the key is missing or wrong, or the model is not clear.
        WrongKindError: The server has no embedder.
        ServerError: The server could not be reached, or is none of those that can be used.
    """
    with _connected(url, api_key, "embedder", local) as connection:
        return RemoteEmbedder(*connection, max_length, query_instruction, passage_instruction, truncate_dim)


def connect_reranker(
    url: str, *, api_key: str | None, max_length: int | None, query_max_length: int | None, **local: Any
) -> RemoteReranker:
    """Return the reranker behind a URL; see `connect_embedder`."""
    with _connected(url, api_key, "reranker", local) as connection:
        return RemoteReranker(*connection, max_length, query_max_length)


@contextmanager
def _connected(
    url: str, api_key: str | None, kind: Kind, local: Mapping[str, Any]
) -> Iterator[tuple[Transport, Dialect, ServedModel]]:
    """Connect to a server and find its model of this kind. The connections are closed if the block fails."""
    _refuse(local)
    transport = Transport(Address.parse(url), api_key)
    try:
        dialect = network_loop.run(_dialect(transport))
        yield transport, dialect, network_loop.run(dialect.describe(kind))
    except BaseException:
        transport.close()
        raise


async def _dialect(transport: Transport) -> Dialect:
    """Return the dialect that the URL names, or that the server's /info shows: ours, TEI's, or else OpenAI's."""
    chosen = transport.address.dialect
    if chosen == "openai":
        return OpenAIDialect(transport)
    info: Any = None
    try:
        info = await transport.get("/info")
    except ServerError as error:
        if chosen is not None or error.status is None:
            raise
    if isinstance(info, Mapping) and isinstance(info.get("models"), list) and chosen != "tei":
        return OwnDialect(transport, info)
    if isinstance(info, Mapping) and isinstance(info.get("model_id"), str) and chosen != "bge":
        return TEIDialect(transport, info)
    if chosen is not None:
        raise transport.unexpected(f"/info does not fit dialect={chosen}")
    return OpenAIDialect(transport)


def _refuse(local: Mapping[str, Any]) -> None:
    given = [name for name, value in local.items() if value is not None and value is not False]
    if given:
        raise InvalidInputError(
            f"{', '.join(f'{name}=' for name in given)} can't be used with a server's URL: the server's model is "
            "loaded already",
            argument=given[0],
            advice="leave it out here, and set it where the server is started",
        )
