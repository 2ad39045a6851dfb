"""BGE-M3's sparse vectors for langchain-qdrant."""

from __future__ import annotations

import asyncio

try:
    from langchain_qdrant import SparseEmbeddings, SparseVector
except ImportError as error:
    raise ImportError("BGESparseEmbeddings needs langchain-qdrant: pip install langchain-qdrant") from error

from bge_integrations.langchain.sparse import SparseModel
from bge_integrations.outputs import SparseVector as Row
from bge_integrations.outputs import SparseVectors


class BGESparseEmbeddings(SparseModel, SparseEmbeddings):
    """Lexical weights of bge-m3 as the `sparse_embedding` of a `QdrantVectorStore`.

    Beside `BGEEmbeddings` over the same model and settings, a hybrid store's documents and queries go through the model
    once: what one of the two computes serves the other. Qdrant compares the weights by dot product, as bge-m3 does.

    Example:
        >>> from langchain_qdrant import QdrantVectorStore, RetrievalMode
        >>> from bge_integrations.langchain import BGEEmbeddings, BGESparseEmbeddings
        >>> texts = ["Pandas eat bamboo.", "Rome lies on the Tiber."]
        >>> store = QdrantVectorStore.from_texts(texts, embedding=BGEEmbeddings(model="BAAI/bge-m3"),
        ...     sparse_embedding=BGESparseEmbeddings(), retrieval_mode=RetrievalMode.HYBRID, location=":memory:")
    """

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """One weight > 0 per different token of each text, by ascending token id."""
        return _vectors(self._sparse().passages(texts, self.show_progress))

    def embed_query(self, text: str) -> SparseVector:
        """The weights of a query."""
        return _vector(self._sparse().query(text))

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """As `embed_documents`, without blocking the event loop."""
        sparse = await self._asparse()
        return await asyncio.to_thread(_vectors, await sparse.apassages(texts, self.show_progress))

    async def aembed_query(self, text: str) -> SparseVector:
        """As `embed_query`, without blocking the event loop."""
        return _vector(await (await self._asparse()).aquery(text))


def _vectors(rows: SparseVectors) -> list[SparseVector]:
    return [_vector(row) for row in rows]


def _vector(row: Row) -> SparseVector:
    return SparseVector(indices=row.indices.tolist(), values=row.values.tolist())
