"""BGE-M3's sparse vectors for langchain-milvus."""

from __future__ import annotations

import asyncio

from bge_integrations.adapter_kit import SparseView
from bge_integrations.langchain.sparse import SparseModel
from bge_integrations.optional import needed_by
from bge_integrations.validation import check_query

with needed_by("BGEMilvusSparseEmbeddings", "langchain-milvus"):
    from langchain_milvus.utils.sparse import BaseSparseEmbedding


class BGEMilvusSparseEmbeddings(SparseModel, BaseSparseEmbedding):
    """bge-m3's lexical weights as a sparse embedding function for `Milvus` stores.

    Together with `BGEEmbeddings` of the same model and settings, each document and query goes through the model only
    once. bge-m3's weights are compared by inner product (`metric_type="IP"`), which Milvus's sparse indexes use.

    Example:
        >>> from langchain_milvus import Milvus
        >>> from bge_integrations.langchain import BGEEmbeddings, BGEMilvusSparseEmbeddings
        >>> texts = ["Pandas eat bamboo.", "Rome lies on the Tiber."]
        >>> store = Milvus.from_texts(texts, [BGEEmbeddings(model="BAAI/bge-m3"), BGEMilvusSparseEmbeddings()],
        ...     vector_field=["dense", "sparse"], connection_args={"uri": "milvus.db"})
    """

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Return {token id: weight > 0} for each text."""
        sparse: SparseView = self._loaded()
        return sparse.encode(texts, "passage", self.show_progress).to_dicts()

    def embed_query(self, query: str) -> dict[int, float]:
        """Return the weights of a query."""
        sparse: SparseView = self._loaded()
        return sparse.encode(check_query(query), "query")[0].to_dict()

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Async version of `embed_documents`; does not block the event loop."""
        sparse: SparseView = await self._aloaded()
        rows = await sparse.aencode(texts, "passage", self.show_progress)
        return await asyncio.to_thread(rows.to_dicts)

    async def aembed_query(self, query: str) -> dict[int, float]:
        """Async version of `embed_query`; does not block the event loop."""
        sparse: SparseView = await self._aloaded()
        return (await sparse.aencode(check_query(query), "query"))[0].to_dict()
