"""A cache of vectors whose keys include the settings that the vectors depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from bge_integrations.validation import check_text


class KeyedCache(BaseKVStore):
    """A view of a user's key-value store that prefixes every key with a digest of the vectors' settings.

    One store can thus cache queries and texts of several models without mixing up their vectors.

    Args:
        store: The user's store.
        settings: JSON-compatible settings that the cached vectors depend on.
    """

    def __init__(self, store: BaseKVStore, settings: dict[str, Any]) -> None:
        self._store = store
        self._prefix = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32] + ":"

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        self._store.put(self._key(key), val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        await self._store.aput(self._key(key), val, collection)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        return self._store.get(self._key(key), collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        return await self._store.aget(self._key(key), collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return self._own(self._store.get_all(collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return self._own(await self._store.aget_all(collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return self._store.delete(self._key(key), collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return await self._store.adelete(self._key(key), collection)

    def _key(self, key: str) -> str:
        check_text(key, "text")
        return self._prefix + key

    def _own(self, entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {key.removeprefix(self._prefix): val for key, val in entries.items() if key.startswith(self._prefix)}
