"""BGE-M3's sparse vectors for langchain-qdrant."""

from __future__ import annotations

import asyncio

from bge_integrations.langchain.sparse import SparseModel
from bge_integrations.optional import needed_by
from bge_integrations.outputs import SparseVector as SparseRow
from bge_integrations.outputs import SparseVectors
from bge_integrations.validation import check_query

with needed_by("BGESparseEmbeddings", "langchain-qdrant"):
    from langchain_qdrant import SparseEmbeddings, SparseVector


class BGESparseEmbeddings(SparseModel, SparseEmbeddings):
    """bge-m3's lexical weights as the `sparse_embedding` of a `QdrantVectorStore`.

    Together with `BGEEmbeddings` of the same model and settings, each document and query of a hybrid store goes through
    the model only once: both share the result. Qdrant compares the weights by dot product, as bge-m3 does.

    Example:
        >>> from langchain_qdrant import QdrantVectorStore, RetrievalMode
        >>> from bge_integrations.langchain import BGEEmbeddings, BGESparseEmbeddings
        >>> texts = ["Pandas eat bamboo.", "Rome lies on the Tiber."]
        >>> store = QdrantVectorStore.from_texts(texts, embedding=BGEEmbeddings(model="BAAI/bge-m3"),
        ...     sparse_embedding=BGESparseEmbeddings(), retrieval_mode=RetrievalMode.HYBRID, location=":memory:")
    """

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Return the positive weight of each distinct token of each text, in order of token ids."""
        return _vectors(self._loaded().encode(texts, "passage", self.show_progress))

    def embed_query(self, text: str) -> SparseVector:
        """Return the weights of a query."""
        return _vector(self._loaded().encode(check_query(text), "query")[0])

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Async version of `embed_documents`; does not block the event loop."""
        sparse = await self._aloaded()
        return await asyncio.to_thread(_vectors, await sparse.aencode(texts, "passage", self.show_progress))

    async def aembed_query(self, text: str) -> SparseVector:
        """Async version of `embed_query`; does not block the event loop."""
        sparse = await self._aloaded()
        return _vector((await sparse.aencode(check_query(text), "query"))[0])


def _vectors(rows: SparseVectors) -> list[SparseVector]:
    return [_vector(row) for row in rows]


def _vector(row: SparseRow) -> SparseVector:
    return SparseVector(indices=row.indices.tolist(), values=row.values.tolist())
