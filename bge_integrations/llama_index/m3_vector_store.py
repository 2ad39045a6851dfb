"""An M3Index as LlamaIndex's vector store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.index.opening import MEMORY
from bge_integrations.llama_index.filters import REF_DOC, search_filter
from bge_integrations.llama_index.m3_documents import outdated_nodes, rows_of
from bge_integrations.llama_index.m3_nodes import nodes_with_scores, to_node
from bge_integrations.llama_index.m3_settings import own_names
from bge_integrations.outputs import to_lists
from bge_integrations.validation import check_query

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from bge_integrations.index import Hit

_MODES = {
    VectorStoreQueryMode.DEFAULT: "dense",
    VectorStoreQueryMode.SPARSE: "sparse",
    VectorStoreQueryMode.HYBRID: "hybrid",
}


class BGEM3VectorStore(BasePydanticVectorStore):
    """A vector store that encodes nodes and queries itself, with bge-m3's three representations.

    Example:
        >>> from llama_index.core import Document, VectorStoreIndex
        >>> from llama_index.core.ingestion import IngestionPipeline
        >>> from llama_index.core.node_parser import SentenceSplitter
        >>> from bge_integrations.llama_index import BGEM3VectorStore
        >>> store = BGEM3VectorStore.open("pandas.store")
        >>> pipeline = IngestionPipeline(transformations=[SentenceSplitter(), store.embed_model], vector_store=store)
        >>> nodes = pipeline.run(documents=[Document(text="Pandas eat bamboo.", id_="pandas")])
        >>> index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
        >>> index.as_retriever(vector_store_query_mode="hybrid").retrieve("What do pandas eat?")

    The query modes are "default", which searches by the dense vectors, "sparse" and "hybrid". A query is searched by
    its text; a query without text is searched by its vector, in the mode "default" only. Embeddings of nodes are
    ignored, but LlamaIndex's pipelines only pass on nodes that have one: `embed_model` marks them as embedded.

    A node whose id exists replaces the stored one. Stored nodes that were made from another version of the same
    document are deleted. Nodes in results have their scores in the metadata, as with `BGEM3Retriever`.

    Args:
        index: An open index, which this store does not close.

    Raises:
        InvalidInputError: By all methods, if a filter, a mode or a node is invalid.
    """

    stores_text: bool = True
    is_embedding_query: bool = False

    _index: M3Index = PrivateAttr()

    def __init__(self, index: M3Index) -> None:
        if not isinstance(index, M3Index):
            raise InvalidInputError(
                f"index is {type(index).__name__}, not an M3Index",
                argument="index",
                advice="pass an M3Index, or use BGEM3VectorStore.open(path)",
            )
        super().__init__(stores_text=True)
        self._index = index

    @classmethod
    def open(cls, path: str | os.PathLike[str] | QdrantClient | None = None, **settings: Any) -> Self:
        """Open an index, or create it.

        Args:
            path: A folder, or the URL or client of a Qdrant server. None uses a temporary folder.
            settings: Arguments of `M3Index.open`, which documents them and the errors: model, device, create, …
        """
        return cls(M3Index.open(MEMORY if path is None else path, **own_names(settings)))

    @classmethod
    def class_name(cls) -> str:
        return "BGEM3VectorStore"

    @property
    def client(self) -> M3Index:
        """The index."""
        return self._index

    @property
    def model_name(self) -> str:
        """The model of the index."""
        return self._index.embedder.name

    @property
    def embed_model(self) -> BaseEmbedding:
        """The dense embeddings of the index's model, for LlamaIndex's classes that need an embedding model.

        In an ingestion pipeline, it only marks nodes as embedded, because the store encodes them. A VectorStoreIndex
        that inserts nodes computes their dense vectors in vain.
        """
        return StoreEmbedding(self._index)

    def close(self) -> None:
        """Close the index, so that it can be opened elsewhere."""
        self._index.close()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "a BGEM3VectorStore with its open index can't be pickled; open it where it is used, or run a Qdrant server"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Encode and store nodes, and return their ids once all are on disk. `kwargs` are ignored."""
        outdated = outdated_nodes(self._index, nodes)
        ids = self._index.add(*rows_of(nodes, {}))
        if outdated:
            self._index.delete(outdated)
        return ids

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Async version of `add`; does not block the event loop."""
        outdated = await asyncio.to_thread(outdated_nodes, self._index, nodes)
        ids = await self._index.aadd(*await asyncio.to_thread(rows_of, nodes, {}))
        if outdated:
            await self._index.adelete(outdated)
        return ids

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._index.delete(filter={REF_DOC: ref_doc_id})

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Async version of `delete`; does not block the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes with these ids, or those that match the filters; with both, those that meet both.

        Raises:
            InvalidInputError: Neither is given. `clear` deletes everything.
        """
        if node_ids is None and filters is None:
            raise InvalidInputError("delete_nodes needs node_ids or filters", advice="to delete all nodes, use clear()")
        self._index.delete([node.node_id for node in self.get_nodes(node_ids, filters)])

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Async version of `delete_nodes`; does not block the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes with these ids, in the same order, or those that match the filters; by default all."""
        condition = search_filter(filters, None)
        if node_ids is None:
            return [to_node(stored) for stored in self._index.scan(condition)]
        stored = self._index.get(node_ids)
        if condition is not None and stored:
            matching = {each.id for each in self._index.scan({"$and": [condition, {"$ids": node_ids}]})}
            stored = [each for each in stored if each.id in matching]
        return [to_node(each) for each in stored]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Async version of `get_nodes`; does not block the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def clear(self) -> None:
        """Delete all nodes."""
        self._index.delete([stored.id for stored in self._index.scan()])

    async def aclear(self) -> None:
        """Async version of `clear`; does not block the event loop."""
        await asyncio.to_thread(self.clear)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the best nodes for a query.

        Args:
            query: Its `alpha` in the mode "hybrid" weights dense scores by alpha and sparse scores by 1 - alpha, as in
                LlamaIndex's other stores; without it, all three scores have the same weight. `hybrid_top_k` and
                `sparse_top_k` are the numbers of results in their modes.
            kwargs: `mode`, `weights`, `fusion` and `candidates` as in `M3Index.search`; they override the query's.
        """
        k, settings = _search_of(query)
        if query.query_str is None:
            return _result(self._index.search_by_vector(_vector_of(query), k, filter=settings["filter"]))
        return _result(self._index.search(query.query_str, k, **{**settings, **kwargs}))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Async version of `query`; does not block the event loop."""
        if query.query_str is None:
            return await asyncio.to_thread(self.query, query, **kwargs)
        k, settings = _search_of(query)
        return _result(await self._index.asearch(query.query_str, k, **{**settings, **kwargs}))


class StoreEmbedding(BaseEmbedding):
    """The dense embeddings of a store's model. As a transformation, it marks nodes as embedded by the store."""

    _index: M3Index = PrivateAttr()

    def __init__(self, index: M3Index) -> None:
        super().__init__(model_name=index.embedder.name)
        self._index = index

    @classmethod
    def class_name(cls) -> str:
        return "StoreEmbedding"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give nodes an empty embedding, so that LlamaIndex passes them on to the store, which encodes them."""
        for node in nodes:
            node.embedding = []
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        return self(nodes)

    def _get_query_embedding(self, query: str) -> list[float]:
        dense = self._index.embedder.encode(check_query(query), kind="query").dense
        assert dense is not None
        return to_lists(dense)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        dense = (await self._index.embedder.aencode(check_query(query), kind="query")).dense
        assert dense is not None
        return to_lists(dense)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        dense = self._index.embedder.encode(texts, kind="passage").dense
        assert dense is not None
        return to_lists(dense)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        dense = (await self._index.embedder.aencode(texts, kind="passage")).dense
        assert dense is not None
        return await asyncio.to_thread(to_lists, dense)


def _search_of(query: VectorStoreQuery) -> tuple[int, dict[str, Any]]:
    """Return the number of results and the keywords of `M3Index.search` for a query."""
    mode = VectorStoreQueryMode(query.mode)
    if mode not in _MODES:
        raise InvalidInputError(
            f"BGEM3VectorStore does not support the query mode {mode.value!r}",
            argument="mode",
            advice=f"use {', '.join(repr(known.value) for known in _MODES)}",
        )
    condition = search_filter(query.filters, query.doc_ids or None)
    if query.node_ids:  # LlamaIndex passes an empty list if all nodes may be returned
        condition = {"$and": [*([] if condition is None else [condition]), {"$ids": query.node_ids}]}
    settings: dict[str, Any] = {"mode": _MODES[mode], "filter": condition}
    k = query.similarity_top_k
    if mode is VectorStoreQueryMode.HYBRID:
        k = query.hybrid_top_k or k
        if query.alpha is not None:
            settings["weights"] = (query.alpha, 1 - query.alpha, 0)
    elif mode is VectorStoreQueryMode.SPARSE:
        k = query.sparse_top_k or k
    return k, settings


def _vector_of(query: VectorStoreQuery) -> list[float]:
    if query.query_embedding is None or VectorStoreQueryMode(query.mode) is not VectorStoreQueryMode.DEFAULT:
        raise InvalidInputError(
            "the query has no text", argument="query_str", advice="pass one, or a vector in the mode 'default'"
        )
    return query.query_embedding


def _result(hits: list[Hit]) -> VectorStoreQueryResult:
    found = nodes_with_scores(hits)
    return VectorStoreQueryResult(
        nodes=[each.node for each in found], similarities=[hit.score for hit in hits], ids=[hit.id for hit in hits]
    )
