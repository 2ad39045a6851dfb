"""A LlamaIndex index of nodes with bge-m3's three representations."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.indices.base import BaseIndex
from llama_index.core.ingestion import run_transformations
from llama_index.core.schema import BaseNode, Document, IndexNode, TransformComponent

from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.index.opening import MEMORY
from bge_integrations.llama_index.filters import REF_DOC
from bge_integrations.llama_index.m3_docstore import M3DocumentStore, with_docstore
from bge_integrations.llama_index.m3_documents import (
    atransform,
    changed,
    known_documents,
    outdated_nodes,
    ref_doc_info,
    replacement,
    rows_of,
    versions_of,
)
from bge_integrations.llama_index.m3_retriever import BGEM3Retriever, check_search, retriever_arguments
from bge_integrations.llama_index.m3_settings import M3Settings, own_names

if TYPE_CHECKING:
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.storage.docstore.types import RefDocInfo
    from llama_index.core.storage.storage_context import StorageContext
    from qdrant_client import QdrantClient

    from bge_integrations.llama_index.m3_documents import KnownDocument, Rows
    from bge_integrations.scoring import Weights

#: Seconds between two attempts to acquire the lock in a coroutine.
_WAIT = 0.005
_logger = logging.getLogger(__name__)


class BGEM3Index(BaseIndex[IndexDict]):
    """A LlamaIndex index with bge-m3's dense, sparse and multi-vectors, encoded in one pass and searched together.

    Nodes, metadata and document state are stored only in the `M3Index`: `load` opens a stored index, and LlamaIndex's
    embedding model is not used. Nodes are encoded with their metadata for embeddings. `docstore` is a view of the
    stored nodes, for postprocessors and retrievers that follow a node to its neighbours or parents. Parents that are
    not to be searched are added with `index.docstore.add_documents(nodes)`, and stored in the index's folder.

    Example:
        >>> from llama_index.core import Document
        >>> from bge_integrations.llama_index import BGEM3Index
        >>> documents = [Document(text="The giant panda eats bamboo.", id_="pandas")]
        >>> index = BGEM3Index.from_documents(documents, path="pandas.index")
        >>> index.as_retriever(similarity_top_k=1).retrieve("What do pandas eat?")

    Inserting a document again replaces it: only new and changed chunks are encoded, and chunks that no longer belong to
    it are deleted. Inserting nodes of a document deletes the nodes of its other versions. Give documents stable ids
    (`id_=`, or a reader's `filename_as_id=True`): by default, LlamaIndex generates a new one each time.

    Args:
        nodes: Nodes to insert without transformations; a node whose id exists replaces the stored one.
        objects: Nodes that refer to retrievers or other objects. The objects are not stored on disk.
        transformations: How documents become nodes; defaults to LlamaIndex's settings.
        show_progress: Show progress bars while documents are split and encoded.
        m3_index: An open index to use instead of `settings`.
        settings: See `M3Settings`.

    Raises:
        InvalidInputError: An argument or a node is invalid.
        WrongModelError: The index was made with another model.
        IndexLockedError: The index is open in another process.
    """

    index_struct_cls = IndexDict

    def __init__(
        self,
        nodes: Sequence[BaseNode] | None = None,
        objects: Sequence[IndexNode] | None = None,
        storage_context: StorageContext | None = None,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        show_progress: bool = False,
        *,
        m3_index: M3Index | None = None,
        **settings: Unpack[M3Settings],
    ) -> None:
        arguments = own_names(settings)
        self.weights: Weights | None = arguments.pop("weights", None)
        check_search(weights=self.weights)
        self._show_progress = show_progress
        self._replacing = threading.Lock()  # held while documents are looked up and replaced
        if m3_index is None:
            path = arguments.pop("path", None)
            self._m3_index = M3Index.open(MEMORY if path is None else path, **arguments)
        elif arguments:
            raise InvalidInputError(
                f"{', '.join(arguments)} can't be set on an open index", advice="pass these to M3Index.open"
            )
        else:
            self._m3_index = m3_index
        try:
            self._nodes = M3DocumentStore(self._m3_index, storage_context.docstore if storage_context else None)
            super().__init__(
                nodes=list(nodes or ()),
                objects=list(objects or ()),
                storage_context=with_docstore(storage_context, self._nodes),
                callback_manager=callback_manager,
                transformations=transformations,
                show_progress=show_progress,
            )
        except BaseException:
            if m3_index is None:
                self.close()
            raise

    @classmethod
    def from_documents(  # type: ignore[override]
        cls,
        documents: Sequence[Document],
        storage_context: StorageContext | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        **settings: Unpack[M3Settings],
    ) -> Self:
        """Open or create an index, and insert these documents.

        Raises:
            InvalidInputError: An argument or a document is invalid.
            WrongModelError: The index was made with another model.
            IndexLockedError: The index is open in another process.
        """
        index = cls(
            storage_context=storage_context,
            show_progress=show_progress,
            callback_manager=callback_manager,
            transformations=transformations,
            **settings,
        )
        try:
            with index._callback_manager.as_trace("index_construction"), index._replacing:
                index._put(documents, known_documents(index.m3_index, documents))
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def from_index(cls, m3_index: M3Index, **arguments: Any) -> Self:
        """Wrap an open `M3Index`. `arguments` are those of the class, except the ones that open an index."""
        return cls(m3_index=m3_index, **arguments)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | QdrantClient, **arguments: Any) -> Self:
        """Open a stored index. `arguments` are those of the class.

        Raises:
            IndexNotFoundError: There is no index at `path`.
        """
        return cls(path=path, create=False, **arguments)

    #: The name of `load` in LlamaIndex's own BGEM3Index.
    load_from_disk = load

    @property
    def model_name(self) -> str:
        """The model of the index."""
        return self._m3_index.embedder.name

    @property
    def m3_index(self) -> M3Index:
        """The underlying index, for features that LlamaIndex has no interface for."""
        return self._m3_index

    def persist(self, persist_dir: str | os.PathLike[str] | None = None) -> None:
        """Copy the index to another folder for `load`, without encoding anything.

        Without a folder, or with the index's own, this only flushes: insertions are on disk when they return.

        Raises:
            InvalidInputError: The index was made without a path, and `persist_dir` is not given.
            IndexFormatError: The folder is not empty.
        """
        location = self._m3_index.location
        if persist_dir is None and location == MEMORY:
            raise InvalidInputError(
                "the index is in a temporary folder",
                argument="persist_dir",
                advice="pass the folder to keep it in: persist(folder)",
            )
        if persist_dir is None or Path(persist_dir).expanduser().resolve() == Path(location):
            self._m3_index.flush()
        else:
            self._m3_index.copy_to(persist_dir)
            self._nodes.copy_others_to(Path(persist_dir).expanduser())

    def close(self) -> None:
        """Close the underlying index, so that it can be opened elsewhere."""
        self._m3_index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """Each document's node ids and the metadata of one node, by document id. Reads the whole index."""
        return ref_doc_info(self._m3_index)

    def as_retriever(self, **kwargs: Any) -> BGEM3Retriever:
        """Return a retriever. `kwargs` are the arguments of `BGEM3Retriever`.

        Raises:
            InvalidInputError: An argument is unknown to the retriever and to LlamaIndex's engines.
        """
        arguments = retriever_arguments(kwargs)
        return BGEM3Retriever(
            self, **{"callback_manager": self._callback_manager, "object_map": self._object_map, **arguments}
        )

    def insert_nodes(self, nodes: Sequence[BaseNode]) -> None:  # type: ignore[override]
        """Insert nodes without transformations. A node whose id exists replaces the stored one.

        Stored nodes that were made from another version of the same document are deleted, and so are the same chunks
        under other ids. Nodes of one document can be inserted in several calls.
        """
        with self._callback_manager.as_trace("insert_nodes"):
            self._insert(nodes)

    async def ainsert_nodes(self, nodes: Sequence[BaseNode]) -> None:  # type: ignore[override]
        """Async version of `insert_nodes`; does not block the event loop."""
        with self._callback_manager.as_trace("ainsert_nodes"):
            outdated = await asyncio.to_thread(outdated_nodes, self._m3_index, nodes)
            rows = await asyncio.to_thread(self._rows, nodes)
            await self._m3_index.aadd(*rows, show_progress=self._show_progress)
            await asyncio.to_thread(self._inserted, nodes, outdated)

    def insert(self, document: Document) -> None:  # type: ignore[override]
        """Insert a document, or replace it."""
        with self._callback_manager.as_trace("insert"), self._replacing:
            self._put([document], known_documents(self._m3_index, [document]))

    async def ainsert(self, document: Document) -> None:  # type: ignore[override]
        """Async version of `insert`; does not block the event loop."""
        with self._callback_manager.as_trace("ainsert"):
            async with self._areplacing():
                await self._aput([document], await asyncio.to_thread(known_documents, self._m3_index, [document]))

    def update_ref_doc(  # type: ignore[override]
        self, document: Document, *, delete_kwargs: object = None, insert_kwargs: object = None
    ) -> None:
        """Like `insert`. The other arguments are for a docstore and are ignored."""
        with self._callback_manager.as_trace("update_ref_doc"):
            self.insert(document)

    async def aupdate_ref_doc(  # type: ignore[override]
        self, document: Document, *, delete_kwargs: object = None, insert_kwargs: object = None
    ) -> None:
        """Like `ainsert`. The other arguments are for a docstore and are ignored."""
        with self._callback_manager.as_trace("aupdate_ref_doc"):
            await self.ainsert(document)

    def refresh_ref_docs(  # type: ignore[override]
        self, documents: Sequence[Document], *, update_kwargs: object = None, insert_kwargs: object = None
    ) -> list[bool]:
        """Insert the documents that are new, changed or incomplete. Return, for each document, whether it was inserted.

        The other arguments are for a docstore and are ignored.
        """
        with self._callback_manager.as_trace("refresh_ref_docs"), self._replacing:
            known = known_documents(self._m3_index, documents)
            refreshed = changed(documents, known)
            self._put(list(compress(documents, refreshed)), known)
            return refreshed

    async def arefresh_ref_docs(  # type: ignore[override]
        self, documents: Sequence[Document], *, update_kwargs: object = None, insert_kwargs: object = None
    ) -> list[bool]:
        """Async version of `refresh_ref_docs`; does not block the event loop."""
        with self._callback_manager.as_trace("arefresh_ref_docs"):
            async with self._areplacing():
                known = await asyncio.to_thread(known_documents, self._m3_index, documents)
                refreshed = changed(documents, known)
                await self._aput(list(compress(documents, refreshed)), known)
                return refreshed

    def delete_nodes(self, node_ids: list[str], delete_from_docstore: bool = False) -> None:  # type: ignore[override]
        """Delete nodes by their ids, with `delete_from_docstore` also nodes that are not searched."""
        self._m3_index.delete(node_ids)
        for node_id in node_ids if delete_from_docstore else ():
            self._nodes.delete_document(node_id, raise_error=False)

    async def adelete_nodes(  # type: ignore[override]
        self, node_ids: list[str], delete_from_docstore: bool = False
    ) -> None:
        """Async version of `delete_nodes`; does not block the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, delete_from_docstore)

    def delete_ref_doc(  # type: ignore[override]
        self, ref_doc_id: str, delete_from_docstore: bool = False
    ) -> None:
        """Delete a document's nodes, with `delete_from_docstore` also those that are not searched."""
        _warn_if_none_deleted(ref_doc_id, self._m3_index.delete(filter={REF_DOC: ref_doc_id}))
        if delete_from_docstore:
            self._nodes.delete_ref_doc(ref_doc_id, raise_error=False)

    async def adelete_ref_doc(  # type: ignore[override]
        self, ref_doc_id: str, delete_from_docstore: bool = False
    ) -> None:
        """Async version of `delete_ref_doc`; does not block the event loop."""
        await asyncio.to_thread(self.delete_ref_doc, ref_doc_id, delete_from_docstore)

    def build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> IndexDict:
        return self._build_index_from_nodes(nodes)  # LlamaIndex's own method adds them to the docstore, too

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> IndexDict:
        self._insert(nodes)
        return IndexDict()

    def _insert(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        outdated = outdated_nodes(self._m3_index, nodes)
        self._m3_index.add(*self._rows(nodes), show_progress=self._show_progress)
        self._inserted(nodes, outdated)

    def _inserted(self, nodes: Sequence[BaseNode], outdated: list[str]) -> None:
        """Delete the nodes that these nodes replace, and keep the parents of these nodes."""
        if outdated:
            self._m3_index.delete(outdated)
        self._nodes.keep_parents(nodes)

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        self.delete_nodes([node_id])

    @asynccontextmanager
    async def _areplacing(self) -> AsyncIterator[None]:
        """Hold `_replacing`. Polls, because waiting in a thread could take the last thread, which the holder needs."""
        while not self._replacing.acquire(blocking=False):
            await asyncio.sleep(_WAIT)
        try:
            yield
        finally:
            self._replacing.release()

    def _put(self, documents: Sequence[Document], known: Mapping[str, KnownDocument]) -> None:
        """Add these documents to the index, and delete nodes of their earlier versions."""
        versions = versions_of(documents)  # before the transformations, which may modify documents
        nodes = run_transformations(documents, self._transformations, show_progress=self._show_progress)
        rows, outdated = self._replacement(nodes, versions, known)
        self._m3_index.add(*rows, show_progress=self._show_progress)
        if outdated:
            self._m3_index.delete(outdated)

    async def _aput(self, documents: Sequence[Document], known: Mapping[str, KnownDocument]) -> None:
        """Async version of `_put`. They share no code, because every step is a different call."""
        versions = versions_of(documents)
        nodes = await atransform(documents, self._transformations)
        rows, outdated = await asyncio.to_thread(self._replacement, nodes, versions, known)
        await self._m3_index.aadd(*rows, show_progress=self._show_progress)
        if outdated:
            await self._m3_index.adelete(outdated)

    def _replacement(
        self, nodes: Sequence[BaseNode], versions: Mapping[str, str], known: Mapping[str, KnownDocument]
    ) -> tuple[Rows, list[str]]:
        self._detach_objects(nodes)
        return replacement(nodes, versions, known)

    def _rows(self, nodes: Sequence[BaseNode]) -> Rows:
        self._detach_objects(nodes)
        return rows_of(nodes, {})

    def _detach_objects(self, nodes: Sequence[BaseNode]) -> None:
        """Move objects that can't be stored to the object map that retrievers use, as LlamaIndex's own indexes do."""
        for node in nodes:
            if isinstance(node, IndexNode):
                try:
                    node.dict()
                except ValueError:
                    self._object_map[node.index_id] = node.obj
                    node.obj = None


def _warn_if_none_deleted(ref_doc_id: str, deleted: int) -> None:
    if not deleted:
        _logger.warning("ref_doc_id %s not found, nothing deleted", ref_doc_id)
