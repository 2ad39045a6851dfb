"""bge-m3's three representations of nodes as a LlamaIndex index, and the retriever over it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.indices.base import BaseIndex
from llama_index.core.ingestion import run_transformations
from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import (
    BaseNode,
    Document,
    IndexNode,
    MetadataMode,
    RelatedNodeInfo,
    TransformComponent,
)
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from pydantic_core import PydanticSerializationError

from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.index.opening import MEMORY
from bge_integrations.llama_index.m3_retriever import REF_DOC, BGEM3Retriever, check_search, is_node, to_node
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.storage.storage_context import StorageContext
    from qdrant_client import QdrantClient

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.index.manifest import MultiVectorStorage, Quantization
    from bge_integrations.scoring import Weights

#: Texts, ids and metadata.
_Rows = tuple[list[str], list[str], list[dict[str, Any]]]

#: The key under which an entry's metadata says which version of its document it is of.
_VERSION = "_ref_doc_version"
#: So many documents are looked up with one filter; each page of the answer reads the whole filter.
_ASKED_AT_ONCE = 500
_WAIT = 0.005  # seconds
#: Arguments of LlamaIndex' own BGEM3Index that have another name here, and those that have none.
_RENAMED = {"model_name": "model", "doc_maxlen": "max_length", "weights_for_different_modes": "weights"}
_REPLACED = {
    "use_fp16": "say dtype='float16' (CUDA only) or leave it out",
    "batch_size": "leave it out: batches are packed by the number of tokens",
    "query_maxlen": "max_length is for queries and documents",
    "pooling_method": "leave it out: bge-m3 has its own",
    "normalize_embeddings": "leave it out: vectors are always unit vectors",
    "index_name": "leave it out: path says which index it is",
    "index_struct": "open an index that was kept with BGEM3Index.load(path)",
}
_logger = logging.getLogger(__name__)


class M3Settings(TypedDict, total=False):
    """Where a `BGEM3Index` is kept, the model it is made with, and how its scores are weighted."""

    path: str | os.PathLike[str] | QdrantClient | None
    """A folder, or the URL or client of a Qdrant server; None is a temporary folder, gone when the index is closed."""
    model: str | os.PathLike[str] | Embedder | None
    """Hub id, folder, "pocket" or a loaded embedder; None takes what the index was made with, or BAAI/bge-m3."""
    model_name: str
    """The same as `model`."""
    device: str | list[str] | None
    """"cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one."""
    dtype: str | None
    """"float32", "bfloat16" or "float16"; None takes bfloat16 on CUDA and float32 on CPU."""
    max_length: int | None
    """Longest text in tokens; longer ones are cut, with a warning."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    cache_folder: str | None
    """The hub's cache; None takes the usual one."""
    local_files_only: bool
    """Never touch the network."""
    multi_vectors: MultiVectorStorage | None
    """"float16", "float32", or "recompute": none are stored, candidates are encoded at query time. None takes what the
    index has, "float16" for a new one."""
    quantization: Quantization | None
    """"int8" for smaller dense vectors; None takes what the index has, none for a new one."""
    collection: str
    """On a server: the collection's name."""
    api_key: str | None
    """On a server: its key."""
    create: bool
    """Make a new index where there is none; True."""
    weights: Weights
    """Of the dense, sparse and multi-vector scores, for retrievers that are not told otherwise; (1, 1, 1)."""
    weights_for_different_modes: Weights
    """The same as `weights`."""


class BGEM3Index(BaseIndex[IndexDict]):
    """Nodes with bge-m3's dense, sparse and multi-vectors, all from one pass, searched by all three.

    Nodes, their metadata and the state of their documents live in the `M3Index` alone: `docstore` stays empty, `load`
    opens what was kept, and no embedding model is asked for. What is read of a node is its text with the metadata for
    embeddings.

    Example:
        >>> from llama_index.core import Document
        >>> from bge_integrations.llama_index import BGEM3Index
        >>> documents = [Document(text="The giant panda eats bamboo.", id_="pandas")]
        >>> index = BGEM3Index.from_documents(documents, path="pandas.index")
        >>> index.as_retriever(similarity_top_k=1).retrieve("What do pandas eat?")

    A document that is inserted again replaces itself: chunks whose text is there already cost no model run, changed
    ones are encoded, those that are no longer part of it go away. Give documents ids of their own (`id_=`, or
    `filename_as_id=True` where a reader has it), because LlamaIndex' default is a new one each time.

    Args:
        nodes: Put in as they are; a node with a known id replaces the one that is there.
        objects: Nodes that lead to retrievers and the like; what they lead to is not kept on disk.
        transformations: How documents become nodes; None takes LlamaIndex' settings.
        show_progress: Show bars while documents are split and encoded.
        m3_index: An open index, instead of settings.
        settings: See `M3Settings`.

    Raises:
        InvalidInputError: An argument or a node can't be used.
        WrongModelError: The index was made with another model.
        IndexLockedError: Another process has it open.
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
        arguments = _own_names(settings)
        self.weights: Weights = arguments.pop("weights", (1.0, 1.0, 1.0))
        check_search(weights=self.weights)
        self._show_progress = show_progress
        self._replacing = threading.Lock()  # one look-up of a document and its replacement at a time
        if m3_index is None:
            path = arguments.pop("path", None)
            self._m3_index = M3Index.open(MEMORY if path is None else path, **arguments)
        elif arguments:
            raise InvalidInputError(f"{', '.join(arguments)} can't be set on an open index; pass these to M3Index.open")
        else:
            self._m3_index = m3_index
        try:
            super().__init__(
                nodes=list(nodes or ()),
                objects=list(objects or ()),
                storage_context=storage_context,
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
        """Open the index, a new one or one that was kept, and insert these documents.

        Raises:
            InvalidInputError: An argument or a document can't be used.
            WrongModelError: The index was made with another model.
            IndexLockedError: Another process has it open.
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
                index._put(documents, index._stored(documents))
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def from_index(cls, m3_index: M3Index, **arguments: Any) -> Self:
        """Wrap an open `M3Index`, whatever wrote it; `arguments` are the constructor's, without those that open one."""
        return cls(m3_index=m3_index, **arguments)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | QdrantClient, **arguments: Any) -> Self:
        """Open an index that was kept; `arguments` are the constructor's.

        Raises:
            IndexNotFoundError: There is none at this place.
        """
        return cls(path=path, create=False, **arguments)

    #: The name in LlamaIndex' own BGEM3Index.
    load_from_disk = load

    @property
    def m3_index(self) -> M3Index:
        """The index below, for what LlamaIndex has no word for."""
        return self._m3_index

    def persist(self, persist_dir: str | os.PathLike[str] | None = None) -> None:
        """Copy the index into another folder, without encoding anything, for `load`.

        Without a folder, or with its own, there is little to do: an insertion is on disk before it returns.

        Raises:
            InvalidInputError: The index was made without a path, and none is given.
            IndexFormatError: There is something in that folder already.
        """
        location = self._m3_index.location
        if persist_dir is None and location == MEMORY:
            raise InvalidInputError("the index lives in a temporary folder; say where to keep it: persist(folder)")
        if persist_dir is None or Path(persist_dir).expanduser().resolve() == Path(location):
            self._m3_index.flush()
        else:
            self._m3_index.copy_to(persist_dir)

    def close(self) -> None:
        """Close the index below, so that others can open it."""
        self._m3_index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """The documents by id: the ids of their nodes, and the metadata of one of these. Reads the whole index."""
        documents: dict[str, RefDocInfo] = {}
        for entry in self._m3_index.scan():
            ref_doc_id = entry.metadata.get(REF_DOC)
            if ref_doc_id is None or not is_node(entry):
                continue
            if ref_doc_id not in documents:
                documents[ref_doc_id] = RefDocInfo(metadata=to_node(entry).metadata)
            documents[ref_doc_id].node_ids.append(entry.id)
        return documents

    def as_retriever(self, **kwargs: Any) -> BGEM3Retriever:
        """A retriever; `kwargs` are those of `BGEM3Retriever`.

        Raises:
            InvalidInputError: An argument is neither the retriever's nor one of LlamaIndex' engines'.
        """
        known = signature(BGEM3Retriever).parameters
        if unknown := sorted(kwargs.keys() - known.keys() - _engine_arguments()):
            raise InvalidInputError(f"a BGEM3Retriever takes no {', '.join(unknown)}; it takes {', '.join(known)}")
        arguments = {name: value for name, value in kwargs.items() if name in known}
        return BGEM3Retriever(
            self, **{"callback_manager": self._callback_manager, "object_map": self._object_map, **arguments}
        )

    def insert_nodes(self, nodes: Sequence[BaseNode]) -> None:  # type: ignore[override]
        """Put nodes in as they are; a node with a known id replaces the one that is there."""
        with self._callback_manager.as_trace("insert_nodes"):
            self._insert(nodes)

    async def ainsert_nodes(self, nodes: Sequence[BaseNode]) -> None:  # type: ignore[override]
        """As `insert_nodes`, without blocking the event loop."""
        with self._callback_manager.as_trace("ainsert_nodes"):
            await self._m3_index.aadd(
                *await asyncio.to_thread(self._rows, nodes, {}), show_progress=self._show_progress
            )

    def insert(self, document: Document) -> None:  # type: ignore[override]
        """Insert a document, in place of itself if it is there."""
        with self._callback_manager.as_trace("insert"), self._replacing:
            self._put([document], self._stored([document]))

    async def ainsert(self, document: Document) -> None:  # type: ignore[override]
        """As `insert`, without blocking the event loop."""
        with self._callback_manager.as_trace("ainsert"):
            async with self._areplacing():
                await self._aput([document], await asyncio.to_thread(self._stored, [document]))

    def update_ref_doc(  # type: ignore[override]
        self, document: Document, *, delete_kwargs: object = None, insert_kwargs: object = None
    ) -> None:
        """The same as `insert`. What is to be done with a docstore has no meaning, since there is none."""
        with self._callback_manager.as_trace("update_ref_doc"):
            self.insert(document)

    async def aupdate_ref_doc(  # type: ignore[override]
        self, document: Document, *, delete_kwargs: object = None, insert_kwargs: object = None
    ) -> None:
        """The same as `ainsert`, and as in `update_ref_doc`."""
        with self._callback_manager.as_trace("aupdate_ref_doc"):
            await self.ainsert(document)

    def refresh_ref_docs(  # type: ignore[override]
        self, documents: Sequence[Document], *, update_kwargs: object = None, insert_kwargs: object = None
    ) -> list[bool]:
        """Insert the documents that are new, changed, or not there as a whole; tell for each whether it was.

        What is to be done with a docstore has no meaning, since there is none.
        """
        with self._callback_manager.as_trace("refresh_ref_docs"), self._replacing:
            stored = self._stored(documents)
            changed = _changed(documents, stored)
            self._put(list(compress(documents, changed)), stored)
            return changed

    async def arefresh_ref_docs(  # type: ignore[override]
        self, documents: Sequence[Document], *, update_kwargs: object = None, insert_kwargs: object = None
    ) -> list[bool]:
        """As `refresh_ref_docs`, without blocking the event loop."""
        with self._callback_manager.as_trace("arefresh_ref_docs"):
            async with self._areplacing():
                stored = await asyncio.to_thread(self._stored, documents)
                changed = _changed(documents, stored)
                await self._aput(list(compress(documents, changed)), stored)
                return changed

    def delete_nodes(self, node_ids: list[str], delete_from_docstore: bool = False) -> None:  # type: ignore[override]
        """Delete nodes by their ids. There is no docstore that they could be left in."""
        self._m3_index.delete(node_ids)

    async def adelete_nodes(  # type: ignore[override]
        self, node_ids: list[str], delete_from_docstore: bool = False
    ) -> None:
        """As `delete_nodes`, without blocking the event loop."""
        await self._m3_index.adelete(node_ids)

    def delete_ref_doc(  # type: ignore[override]
        self, ref_doc_id: str, delete_from_docstore: bool = False
    ) -> None:
        """Delete a document's nodes. There is no docstore that they could be left in."""
        _warn_of_none(ref_doc_id, self._m3_index.delete(filter={REF_DOC: ref_doc_id}))

    async def adelete_ref_doc(  # type: ignore[override]
        self, ref_doc_id: str, delete_from_docstore: bool = False
    ) -> None:
        """As `delete_ref_doc`, without blocking the event loop."""
        _warn_of_none(ref_doc_id, await self._m3_index.adelete(filter={REF_DOC: ref_doc_id}))

    def build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> IndexDict:
        return self._build_index_from_nodes(nodes)  # LlamaIndex would put them into the docstore first

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> IndexDict:
        self._insert(nodes)
        return IndexDict()

    def _insert(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        self._m3_index.add(*self._rows(nodes, {}), show_progress=self._show_progress)

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        self.delete_nodes([node_id])

    @asynccontextmanager
    async def _areplacing(self) -> AsyncIterator[None]:
        """As `_replacing`. Waiting in threads would take those that the holder needs."""
        while not self._replacing.acquire(blocking=False):
            await asyncio.sleep(_WAIT)
        try:
            yield
        finally:
            self._replacing.release()

    def _put(self, documents: Sequence[Document], stored: Mapping[str, _Stored]) -> None:
        """Have these documents in the index, and nothing else of them."""
        versions = _versions(documents)  # before the transformations, which may change documents
        nodes = run_transformations(documents, self._transformations, show_progress=self._show_progress)
        rows, gone = self._replacement(nodes, versions, stored)
        self._m3_index.add(*rows, show_progress=self._show_progress)
        if gone:
            self._m3_index.delete(gone)

    async def _aput(self, documents: Sequence[Document], stored: Mapping[str, _Stored]) -> None:
        versions = _versions(documents)
        nodes = await _atransformed(documents, self._transformations)
        rows, gone = await asyncio.to_thread(self._replacement, nodes, versions, stored)
        await self._m3_index.aadd(*rows, show_progress=self._show_progress)
        if gone:
            await self._m3_index.adelete(gone)

    def _replacement(
        self, nodes: Sequence[BaseNode], versions: Mapping[str, str], stored: Mapping[str, _Stored]
    ) -> tuple[_Rows, list[str]]:
        """What to add for documents in these versions, and the ids that are no longer part of them."""
        before = {document_id: stored[document_id] for document_id in versions if document_id in stored}
        _keep_ids(nodes, before)
        now = {node.node_id for node in nodes}
        return self._rows(nodes, versions), [i for document in before.values() for i in document.texts if i not in now]

    def _stored(self, documents: Sequence[Document]) -> dict[str, _Stored]:
        """What is there of these documents, by their ids."""
        stored: dict[str, _Stored] = defaultdict(_Stored)
        for ids in iter_batch(sorted({document.node_id for document in documents}), _ASKED_AT_ONCE):
            for entry in self._m3_index.scan({REF_DOC: {"$in": ids}}):
                if not is_node(entry):
                    continue
                document = stored[entry.metadata[REF_DOC]]
                document.texts[entry.id] = entry.text
                document.versions.append(entry.metadata.get(_VERSION))
        return dict(stored)

    def _rows(self, nodes: Sequence[BaseNode], versions: Mapping[str, str]) -> _Rows:
        """Texts, ids and metadata of nodes, as `M3Index` takes them; `versions` are of documents that are whole."""
        parts = Counter(map(_document_id, nodes))
        metadatas = []
        for node in nodes:
            self._detach_object(node)
            document_id = _document_id(node)
            metadata = _to_metadata(node)
            metadata[REF_DOC] = document_id  # LlamaIndex writes "None" for none
            if document_id is not None and document_id in versions:
                metadata[_VERSION] = {"hash": versions[document_id], "nodes": parts[document_id]}
            metadatas.append(metadata)
        return [_text(node) for node in nodes], [node.node_id for node in nodes], metadatas

    def _detach_object(self, node: BaseNode) -> None:
        """Move an object that can't be stored to where retrievers look for it, as LlamaIndex' own indexes do."""
        if isinstance(node, IndexNode):
            try:
                node.dict()
            except ValueError:
                self._object_map[node.index_id] = node.obj
                node.obj = None


@dataclass
class _Stored:
    """What is there of one document: the texts of its nodes by their ids, and the versions they say they are of."""

    texts: dict[str, str] = field(default_factory=dict)
    versions: list[Any] = field(default_factory=list)

    def is_whole(self, version: str) -> bool:
        """Whether all nodes of this version are there, and no others; not so when a process was killed in between."""
        return all(found == {"hash": version, "nodes": len(self.texts)} for found in self.versions)


async def _atransformed(
    documents: Sequence[BaseNode], transformations: Iterable[TransformComponent]
) -> Sequence[BaseNode]:
    """The nodes of documents. LlamaIndex would run what has no async of its own on the event loop: text splitters."""
    nodes = documents
    for transformation in transformations:
        if _has_async(transformation):
            nodes = await transformation.acall(nodes)
        else:
            nodes = await asyncio.to_thread(transformation, nodes)
    return nodes


def _has_async(transformation: TransformComponent) -> bool:
    if isinstance(transformation, NodeParser):
        return type(transformation)._aparse_nodes is not NodeParser._aparse_nodes
    return type(transformation).acall is not TransformComponent.acall


def _versions(documents: Iterable[Document]) -> dict[str, str]:
    """The documents' hashes by id; those that share an id are one document."""
    versions: dict[str, str] = {}
    for document in documents:
        check_text(document.get_content(MetadataMode.ALL), f"document {document.node_id!r}")
        versions[document.node_id] = versions.get(document.node_id, "") + document.hash
    return versions


def _changed(documents: Sequence[Document], stored: Mapping[str, _Stored]) -> list[bool]:
    versions = _versions(documents)
    return [
        document.node_id not in stored or not stored[document.node_id].is_whole(versions[document.node_id])
        for document in documents
    ]


def _keep_ids(nodes: Sequence[BaseNode], stored: Mapping[str, _Stored]) -> None:
    """Give chunks whose text is there already the ids they have there, so that they cost no model run.

    Parsers make new ids each time. Where they make the same ones (`id_func`), these are left alone, and so are those of
    documents that no transformation has split.
    """
    given = {node.node_id for node in nodes}
    free: dict[tuple[str | None, str], list[str]] = defaultdict(list)
    for document_id, document in stored.items():
        if given.isdisjoint(document.texts):
            for node_id, text in document.texts.items():
                free[document_id, text].append(node_id)
    kept: dict[str, str] = {}
    for node in nodes:
        if not isinstance(node, Document) and (ids := free.get((node.ref_doc_id, _text(node)))):
            kept[node.node_id] = ids.pop()
    for node in nodes:
        node.node_id = kept.get(node.node_id, node.node_id)
        for related in _related(node):
            related.node_id = kept.get(related.node_id, related.node_id)


def _related(node: BaseNode) -> Iterator[RelatedNodeInfo]:
    for related in node.relationships.values():
        yield from related if isinstance(related, list) else [related]


def _document_id(node: BaseNode) -> str | None:
    """The document that a node is part of; a document that no transformation has split is its own."""
    return node.ref_doc_id or (node.node_id if isinstance(node, Document) else None)


def _text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def _to_metadata(node: BaseNode) -> dict[str, Any]:
    try:
        return node_to_metadata_dict(node)
    except PydanticSerializationError as error:
        raise InvalidInputError(
            f"node {node.node_id!r} holds what JSON can't: {error}; use str, numbers, bool, None, lists and dicts"
        ) from error


def _own_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under this package's names; those of LlamaIndex' own BGEM3Index are renamed, or refused with advice."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _REPLACED:
            raise InvalidInputError(f"BGEM3Index takes no {name}: {_REPLACED[name]}")
        own = _RENAMED.get(name, name)
        if own in named:
            raise InvalidInputError(f"{own} is given twice, also as {name}; pass one of them")
        named[own] = value
    return named


def _engine_arguments() -> set[str]:
    """What `as_query_engine` and `as_chat_engine` take for LlamaIndex' engines, and hand to `as_retriever` too."""
    from llama_index.core import chat_engine, query_engine

    makers = (
        query_engine.RetrieverQueryEngine.from_args,
        chat_engine.CondenseQuestionChatEngine.from_defaults,
        chat_engine.ContextChatEngine.from_defaults,
        chat_engine.CondensePlusContextChatEngine.from_defaults,
        chat_engine.SimpleChatEngine.from_defaults,
    )
    return {name for maker in makers for name in signature(maker).parameters}


def _warn_of_none(ref_doc_id: str, deleted: int) -> None:
    if not deleted:
        _logger.warning("ref_doc_id %s not found, nothing deleted", ref_doc_id)
