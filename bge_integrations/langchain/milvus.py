"""BGE-M3's sparse vectors for langchain-milvus."""

from __future__ import annotations

import asyncio

try:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
except ImportError as error:
    raise ImportError("BGEMilvusSparseEmbeddings needs langchain-milvus: pip install langchain-milvus") from error

from bge_integrations.langchain.sparse import SparseModel


class BGEMilvusSparseEmbeddings(SparseModel, BaseSparseEmbedding):
    """Lexical weights of bge-m3 as one of a `Milvus` store's embedding functions.

    Beside `BGEEmbeddings` over the same model and settings, the store's documents and queries go through the model
    once. bge-m3's weights are compared by inner product: `metric_type="IP"`, what Milvus' sparse indexes use.

    Example:
        >>> from langchain_milvus import Milvus
        >>> from bge_integrations.langchain import BGEEmbeddings, BGEMilvusSparseEmbeddings
        >>> texts = ["Pandas eat bamboo.", "Rome lies on the Tiber."]
        >>> store = Milvus.from_texts(texts, [BGEEmbeddings(model="BAAI/bge-m3"), BGEMilvusSparseEmbeddings()],
        ...     vector_field=["dense", "sparse"], connection_args={"uri": "milvus.db"})
    """

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """{token id: weight > 0} of each text."""
        return self._sparse().passages(texts, self.show_progress).to_dicts()

    def embed_query(self, query: str) -> dict[int, float]:
        """The weights of a query."""
        return self._sparse().query(query).to_dict()

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """As `embed_documents`, without blocking the event loop."""
        sparse = await self._asparse()
        found = await sparse.apassages(texts, self.show_progress)
        return await asyncio.to_thread(found.to_dicts)

    async def aembed_query(self, query: str) -> dict[int, float]:
        """As `embed_query`, without blocking the event loop."""
        return (await (await self._asparse()).aquery(query)).to_dict()
