"""Sync a store with documents: store the new and changed ones, then delete those that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Protocol, TypeVar

from bge_integrations.errors import InvalidInputError

Document = TypeVar("Document")
_Document = TypeVar("_Document", contravariant=True)

#: Number of documents to compare and store at a time.
_BATCH = 256


class Store(Protocol[_Document]):
    """A store of documents by id."""

    def put(self, documents: Mapping[str, _Document]) -> None:
        """Store documents by id. Unchanged documents are not encoded again; changed ones replace the old version."""

    def ids(self) -> Iterable[str]:
        """Return the ids of the stored documents, except those that `sync` must not delete."""

    def delete(self, ids: list[str]) -> None:
        """Delete documents."""


def sync(store: Store[Document], documents: Iterable[tuple[str, Document]]) -> int:
    """Update the store so that it contains exactly these documents.

    Documents are deleted only after all others are stored. An interrupted call keeps what it has stored, and the next
    call continues from there.

    Args:
        store: The store to update.
        documents: (id, document) pairs, read batch by batch.

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
        raise InvalidInputError(
            "there are no documents, so the store was not changed", argument="documents", advice="pass at least one"
        )
    gone = [identifier for identifier in store.ids() if identifier not in seen]
    if gone:
        store.delete(gone)
    return len(gone)
