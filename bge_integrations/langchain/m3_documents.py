"""Conversion between LangChain documents and M3Index, and opening an index from settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from bge_integrations.adapter_kit.scored_metadata import SCORES, ScoredMetadata, found_metadata, without_scores
from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.index.opening import EMBEDDER_SETTINGS
from bge_integrations.moved_arguments import advice_for
from bge_integrations.reporting import warn_caller

if TYPE_CHECKING:
    from bge_integrations.index import Hit, StoredDocument

#: All keywords of `M3Index.open`.
_OPEN_SETTINGS = (set(inspect.signature(M3Index.open).parameters) | EMBEDDER_SETTINGS) - {"path_or_url", "settings"}


def open_index(
    path: str | os.PathLike[str] | None, settings: dict[str, Any], fields: Iterable[str]
) -> tuple[M3Index, dict[str, Any]]:
    """Open an index with the settings of `M3Index.open`. Return it with the other settings, which are `fields`."""
    known = {*_OPEN_SETTINGS, *fields, "model_name"} - {"index"}
    if unknown := sorted(settings.keys() - known):
        advice = advice_for(unknown[0], known) or f"use one of {', '.join(sorted(known))}"
        raise InvalidInputError(f"unknown setting {unknown[0]}", argument=unknown[0], advice=advice)
    if {"model", "model_name"} <= settings.keys():
        raise InvalidInputError("model and model_name are both given", argument="model", advice="pass one of them")
    if "model_name" in settings:
        settings = {**settings, "model": settings["model_name"]}
        del settings["model_name"]
    index_settings = {name: value for name, value in settings.items() if name in _OPEN_SETTINGS}
    index = M3Index.open(":memory:" if path is None else path, **index_settings)
    return index, {name: value for name, value in settings.items() if name not in index_settings}


def storable(metadatas: Any) -> Any:
    """Return an iterator over metadata without the scores of an earlier search, which are never stored.

    What is not a list of metadata is returned unchanged, for `M3Index.add` to refuse.
    """
    if not isinstance(metadatas, Iterable) or isinstance(metadatas, (str, Mapping)):
        return metadatas
    return map(_storable, metadatas)


def _storable(metadata: Any) -> Any:
    if not isinstance(metadata, Mapping) or SCORES.isdisjoint(metadata):
        return metadata
    if not isinstance(metadata, ScoredMetadata):  # it may be a copy of a result's metadata, or the user's own
        names = ", ".join(sorted(SCORES & metadata.keys()))
        warn_caller(f"the metadata {names} is not stored, because search results have scores there", UserWarning)
    return without_scores(metadata)


def columns(documents: Iterable[Document]) -> dict[str, list[Any]]:
    """Return documents as the arguments of `M3Index.add`."""
    listed = list(documents)
    for i, document in enumerate(listed):
        if not isinstance(document, Document):
            raise InvalidInputError(
                f"documents[{i}] is {type(document).__name__}, not a Document",
                advice="for texts, use the method for texts",
            )
    return {
        "texts": [document.page_content for document in listed],
        "ids": [document.id for document in listed],
        "metadatas": [_storable(document.metadata) for document in listed],
    }


def to_document(stored: StoredDocument) -> Document:
    return Document(stored.text, id=stored.id, metadata=stored.metadata)


def found_document(hit: Hit) -> Document:
    """Return a search result with its scores in the metadata, under the names in `scored_metadata`."""
    document = to_document(hit)
    document.metadata = found_metadata(hit.metadata, hit.score, hit.scores)  # the constructor would make it a dict
    return document
