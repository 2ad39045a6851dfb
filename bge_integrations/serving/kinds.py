"""Queries or passages: what each dialect calls them. It decides which instruction a text gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from bge_integrations.core.embedder import TextKind

#: The names of clients and of saved SentenceTransformers for queries and for passages.
_NAMES: dict[str, TextKind] = {
    "query": "query",
    "s2p_query": "query",
    "search_query": "query",
    "web_search_query": "query",
    "retrieval.query": "query",
    "passage": "passage",
    "document": "passage",
    "search_document": "passage",
    "retrieval.passage": "passage",
}
#: Cohere's names for inputs that are neither.
_NEITHER = ("classification", "clustering", "image")


def kind_of_name(name: str, argument: str) -> TextKind | None:
    """Return the kind of text with this name; None for Cohere's "classification", "clustering" and "image".

    Raises:
        InvalidInputError: The name is unknown.
    """
    if name in _NEITHER:
        return None
    if name not in _NAMES:
        raise InvalidInputError(
            f"{argument}={name!r} is unknown",
            argument=argument,
            advice=f"use 'query' or 'passage' (also {', '.join([*_NAMES][1:4])}, {', '.join([*_NAMES][6:])})",
        )
    return _NAMES[name]


def split_alias(model: str) -> tuple[str, TextKind | None]:
    """Return the name and the kind in "NAME:query" or "NAME:passage"; other names have no kind."""
    name, _, suffix = model.rpartition(":")
    return (name, _NAMES[suffix]) if name and suffix in _NAMES else (model, None)
