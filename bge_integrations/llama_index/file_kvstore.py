"""A LlamaIndex key-value store in one SQLite file."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore

from bge_integrations.errors import StorageError

_CREATE = """CREATE TABLE IF NOT EXISTS items
(collection TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (collection, key)) WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO items VALUES (?, ?, ?)"
#: Seconds to wait for another process that is writing.
_WAIT = 30


class FileKVStore(BaseKVStore):
    """A key-value store in a file, which is created with the first value. A value is on disk when a call returns.

    Each call opens the file, so that threads, forked children and other processes can use it at the same time.

    Args:
        path: The file.

    Raises:
        StorageError: By all methods, if the file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        self.put_all([(key, val)], collection)

    def put_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        rows = [(collection, key, json.dumps(value)) for key, value in kv_pairs]
        if rows:
            with self._writing() as database:
                database.executemany(_PUT, rows)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        rows = self._read("SELECT key, value FROM items WHERE collection = ? AND key = ?", collection, key)
        return rows.get(key)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return self._read("SELECT key, value FROM items WHERE collection = ? ORDER BY key", collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        if not self.path.exists():
            return False
        with self._writing() as database:
            deleted = database.execute("DELETE FROM items WHERE collection = ? AND key = ?", (collection, key))
        return deleted.rowcount > 0

    def copy_to(self, path: Path) -> None:
        """Copy all values to another file."""
        if self.path.exists():
            with _errors(path), closing(self._connect()) as source, closing(sqlite3.connect(path)) as target:
                source.backup(target)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        await asyncio.to_thread(self.put, key, val, collection)

    async def aput_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        await asyncio.to_thread(self.put_all, kv_pairs, collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        return await asyncio.to_thread(self.get, key, collection)

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        return await asyncio.to_thread(self.get_all, collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return await asyncio.to_thread(self.delete, key, collection)

    def _connect(self) -> sqlite3.Connection:
        """Open the file for reading, on a read-only file system, too."""
        return sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=_WAIT)

    def _read(self, query: str, *parameters: str) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        with _errors(self.path), closing(self._connect()) as database:
            return {key: json.loads(value) for key, value in database.execute(query, parameters)}

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _errors(self.path), closing(sqlite3.connect(self.path, timeout=_WAIT)) as database, database:
            database.execute(_CREATE)
            yield database


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, ValueError, RecursionError) as error:
        raise StorageError(f"{path} can't be read or written: {error}") from error
