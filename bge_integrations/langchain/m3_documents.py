"""Conversion between LangChain documents and M3Index, and opening an index from settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.index.opening import EMBEDDER_SETTINGS

if TYPE_CHECKING:
    from bge_integrations.index import StoredDocument

#: All keywords of `M3Index.open`.
_OPEN_SETTINGS = (set(inspect.signature(M3Index.open).parameters) | EMBEDDER_SETTINGS) - {"path_or_url", "settings"}


def open_index(
    path: str | os.PathLike[str] | None, settings: dict[str, Any], fields: Iterable[str]
) -> tuple[M3Index, dict[str, Any]]:
    """Open an index with the settings of `M3Index.open`. Return it with the other settings, which are `fields`."""
    known = {*_OPEN_SETTINGS, *fields, "model_name"} - {"index"}
    if unknown := sorted(settings.keys() - known):
        raise InvalidInputError(
            f"unknown setting {', '.join(unknown)}", advice=f"use one of {', '.join(sorted(known))}"
        )
    if {"model", "model_name"} <= settings.keys():
        raise InvalidInputError("model and model_name are both given", argument="model", advice="pass one of them")
    if "model_name" in settings:
        settings = {**settings, "model": settings["model_name"]}
        del settings["model_name"]
    index_settings = {name: value for name, value in settings.items() if name in _OPEN_SETTINGS}
    index = M3Index.open(":memory:" if path is None else path, **index_settings)
    return index, {name: value for name, value in settings.items() if name not in index_settings}


def columns(documents: Iterable[Document]) -> dict[str, list[Any]]:
    """Return documents as the arguments of `M3Index.add`."""
    listed = list(documents)
    return {
        "texts": [document.page_content for document in listed],
        "ids": [document.id for document in listed],
        "metadatas": [document.metadata for document in listed],
    }


def to_document(stored: StoredDocument) -> Document:
    return Document(stored.text, id=stored.id, metadata=stored.metadata)
