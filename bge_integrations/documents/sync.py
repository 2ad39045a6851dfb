"""Bring a store up to date with documents: new and changed ones are stored, then those that are gone are deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Protocol, TypeVar

from bge_integrations.errors import InvalidInputError

Document = TypeVar("Document")
_Document = TypeVar("_Document", contravariant=True)

#: Documents that are compared with the store and added at a time.
_BATCH = 256


class Store(Protocol[_Document]):
    """A store that knows its documents by id."""

    def put(self, documents: Mapping[str, _Document]) -> None:
        """Store documents by id. An unchanged one costs no model run, a changed one replaces the old version."""

    def ids(self) -> Iterable[str]:
        """Ids of the stored documents, except those that `sync` must never delete."""

    def delete(self, ids: list[str]) -> None:
        """Delete documents."""


def sync(store: Store[Document], documents: Iterable[tuple[str, Document]]) -> int:
    """Make the store hold these documents and no others.

    Nothing is deleted before everything is stored, and whatever an interrupted call has stored stays: the next call
    continues from there.

    Args:
        store: What to update.
        documents: Ids and documents. They are read batch by batch.

    Returns:
        The number of deleted documents.

    Raises:
        InvalidInputError: There are no documents. The store is unchanged.
    """
    seen: set[str] = set()
    remaining = iter(documents)
    while batch := dict(islice(remaining, _BATCH)):
        store.put(batch)
        seen.update(batch)
    if not seen:
        raise InvalidInputError("there are no documents to store; the store is unchanged")
    gone = [identifier for identifier in store.ids() if identifier not in seen]
    if gone:
        store.delete(gone)
    return len(gone)
