"""The nodes of an M3Index, and nodes beside them that are not searched, as a LlamaIndex docstore."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.docstore.types import DEFAULT_PERSIST_PATH, BaseDocumentStore, RefDocInfo
from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE
from llama_index.core.storage.storage_context import StorageContext

from bge_integrations.llama_index.file_kvstore import FileKVStore
from bge_integrations.llama_index.filters import REF_DOC
from bge_integrations.llama_index.m3_documents import ref_doc_info
from bge_integrations.llama_index.m3_nodes import to_node
from bge_integrations.llama_index.scored_nodes import without_scores

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from bge_integrations.index import M3Index

#: The file in an index's folder with the nodes that are not searched.
_FILE = "llama_index_docstore.sqlite"
_MANIFEST = "manifest.json"


class M3DocumentStore(BaseDocumentStore):
    """A docstore with the nodes of an index, and with other nodes that the index refers to but does not search.

    The nodes of the index are only read: they are added with the index's own methods. Other nodes, such as the parents
    of a HierarchicalNodeParser, are added here. They are stored in the folder of the index; of an index on a server or
    in a temporary folder, they are in memory.

    Args:
        index: The index.
        fallback: The docstore of a user's storage context: nodes that are in neither are looked up there.
    """

    def __init__(self, index: M3Index, fallback: BaseDocumentStore | None = None) -> None:
        self._index = index
        self._file = _file_of(index)
        self._others = SimpleDocumentStore() if self._file is None else KVDocumentStore(self._file)
        self._fallback = fallback

    @property
    def docs(self) -> dict[str, BaseNode]:
        """All nodes, by their ids. Reads the whole index."""
        others = {**self._fallback.docs, **self._others.docs} if self._fallback else self._others.docs
        return {**others, **{stored.id: to_node(stored) for stored in self._index.scan()}}

    def persist(self, persist_path: str = DEFAULT_PERSIST_PATH, fs: AbstractFileSystem | None = None) -> None:
        """Write all nodes to a file of LlamaIndex's SimpleDocumentStore. The index itself needs no such file."""
        copy = SimpleDocumentStore()
        copy.add_documents(list(self.docs.values()))
        copy.persist(persist_path, fs)

    def copy_others_to(self, folder: Path) -> None:
        """Copy the nodes that are not in the index to the folder of a copy of the index."""
        target = FileKVStore(folder / _FILE)
        if self._file is not None:
            self._file.copy_to(target.path)
        else:
            KVDocumentStore(target).add_documents(list(self._others.docs.values()))

    def keep_parents(self, nodes: Iterable[BaseNode]) -> None:
        """Copy the ancestors of these nodes from the user's docstore, so that the index is complete without it."""
        if self._fallback is None:
            return
        parents: dict[str, BaseNode] = {}
        waiting = list(nodes)
        while waiting:
            related = waiting.pop().parent_node
            if related and related.node_id not in parents:
                parent = self._fallback.get_document(related.node_id, raise_error=False)
                if parent is not None:
                    parents[related.node_id] = parent
                    waiting.append(parent)
        self.add_documents(list(parents.values()))

    def add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int = DEFAULT_BATCH_SIZE,
        store_text: bool = True,
    ) -> None:
        """Add nodes that are not searched. Nodes that the index has are left out.

        Raises:
            ValueError: A node exists, and `allow_update` is False.
        """
        found = {stored.id for stored in self._index.get([node.node_id for node in docs])}
        others = [without_scores(node) for node in docs if node.node_id not in found]
        self._others.add_documents(others, allow_update=allow_update, store_text=store_text)

    def get_document(self, doc_id: str, raise_error: bool = True) -> BaseNode | None:
        """Return a node.

        Raises:
            ValueError: It does not exist, and `raise_error` is True.
        """
        for stored in self._index.get([doc_id]):
            return to_node(stored)
        node = self._others.get_document(doc_id, raise_error=False)
        if node is None and self._fallback is not None:
            node = self._fallback.get_document(doc_id, raise_error=False)
        if node is None and raise_error:
            raise ValueError(
                f"the index has no node {doc_id!r}; add parents of its nodes with index.docstore.add_documents(nodes)"
            )
        return node

    def get_nodes(self, node_ids: list[str], raise_error: bool = True) -> list[BaseNode]:
        """Return the nodes with these ids, in the same order. Unknown ids are skipped if `raise_error` is False."""
        indexed = {stored.id: to_node(stored) for stored in self._index.get(dict.fromkeys(node_ids))}
        nodes = [indexed.get(node_id) or self.get_document(node_id, raise_error) for node_id in node_ids]
        return [node for node in nodes if node is not None]

    def document_exists(self, doc_id: str) -> bool:
        return self.get_document(doc_id, raise_error=False) is not None

    def delete_document(self, doc_id: str, raise_error: bool = True) -> None:
        """Delete a node that is not searched. To delete a node of the index, use `index.delete_nodes`.

        Raises:
            ValueError: There is no such node, and `raise_error` is True.
        """
        self._others.delete_document(doc_id, raise_error)

    def delete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        """Delete the nodes of a document that are not searched. For the others, use `index.delete_ref_doc`.

        Raises:
            ValueError: There are none, and `raise_error` is True.
        """
        self._others.delete_ref_doc(ref_doc_id, raise_error)

    def get_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        """Return the ids of a document's nodes; None if there are none."""
        indexed = ref_doc_info(self._index, {REF_DOC: ref_doc_id}).get(ref_doc_id)
        return _joined(indexed, self._others.get_ref_doc_info(ref_doc_id))

    def get_all_ref_doc_info(self) -> dict[str, RefDocInfo]:
        """Return the ids of each document's nodes. Reads the whole index."""
        indexed, others = ref_doc_info(self._index), self._others.get_all_ref_doc_info() or {}
        joined = {name: _joined(indexed.get(name), others.get(name)) for name in {**indexed, **others}}
        return {name: info for name, info in joined.items() if info is not None}

    def set_document_hash(self, doc_id: str, doc_hash: str) -> None:
        self._others.set_document_hash(doc_id, doc_hash)

    def set_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        self._others.set_document_hashes(doc_hashes)

    def get_document_hash(self, doc_id: str) -> str | None:
        return self._others.get_document_hash(doc_id)

    def get_all_document_hashes(self) -> dict[str, str]:
        return self._others.get_all_document_hashes()

    async def async_add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int = DEFAULT_BATCH_SIZE,
        store_text: bool = True,
    ) -> None:
        await asyncio.to_thread(self.add_documents, docs, allow_update, batch_size, store_text)

    async def aget_document(self, doc_id: str, raise_error: bool = True) -> BaseNode | None:
        return await asyncio.to_thread(self.get_document, doc_id, raise_error)

    async def aget_nodes(self, node_ids: list[str], raise_error: bool = True) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, raise_error)

    async def adocument_exists(self, doc_id: str) -> bool:
        return await asyncio.to_thread(self.document_exists, doc_id)

    async def adelete_document(self, doc_id: str, raise_error: bool = True) -> None:
        await asyncio.to_thread(self.delete_document, doc_id, raise_error)

    async def adelete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        await asyncio.to_thread(self.delete_ref_doc, ref_doc_id, raise_error)

    async def aget_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        return await asyncio.to_thread(self.get_ref_doc_info, ref_doc_id)

    async def aget_all_ref_doc_info(self) -> dict[str, RefDocInfo]:
        return await asyncio.to_thread(self.get_all_ref_doc_info)

    async def aset_document_hash(self, doc_id: str, doc_hash: str) -> None:
        await asyncio.to_thread(self.set_document_hash, doc_id, doc_hash)

    async def aset_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        await asyncio.to_thread(self.set_document_hashes, doc_hashes)

    async def aget_document_hash(self, doc_id: str) -> str | None:
        return await asyncio.to_thread(self.get_document_hash, doc_id)

    async def aget_all_document_hashes(self) -> dict[str, str]:
        return await asyncio.to_thread(self.get_all_document_hashes)


def with_docstore(storage_context: StorageContext | None, docstore: M3DocumentStore) -> StorageContext:
    """Return a storage context with this docstore; the user's is not changed."""
    if storage_context is None:
        return StorageContext.from_defaults(docstore=docstore)
    return replace(storage_context, docstore=docstore)


def _file_of(index: M3Index) -> FileKVStore | None:
    """Return the store in the index's folder; None if it has no folder that lasts."""
    folder = Path(index.location)
    return FileKVStore(folder / _FILE) if (folder / _MANIFEST).is_file() else None


def _joined(indexed: RefDocInfo | None, others: RefDocInfo | None) -> RefDocInfo | None:
    if indexed is None or others is None:
        return indexed or others
    return RefDocInfo(list(dict.fromkeys([*indexed.node_ids, *others.node_ids])), indexed.metadata or others.metadata)
