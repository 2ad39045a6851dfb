"""BGE-M3's sparse vectors as LlamaIndex's `BaseSparseEmbedding` and for its Qdrant store."""

from __future__ import annotations

import asyncio

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from pydantic import AliasChoices

from bge_integrations.adapter_kit import LazyModel, SparseView, arguments_of, load_sparse
from bge_integrations.adapter_kit.settings import ModelName, QuerySettings
from bge_integrations.llama_index.component import EmbeddingComponent
from bge_integrations.outputs import SparseVectors
from bge_integrations.validation import check_query


class BGESparseEmbedding(EmbeddingComponent, QuerySettings, BaseSparseEmbedding):
    """Lexical weights of bge-m3: {token id: weight > 0} for each text.

    Pass `sparse_doc_fn` and `sparse_query_fn` to LlamaIndex's `QdrantVectorStore` as arguments of the same names.
    Together with a `BGEEmbedding` of the same model and settings, each text and query goes through the model only once:
    both share the result.

    Example:
        >>> from llama_index.vector_stores.qdrant import QdrantVectorStore
        >>> from qdrant_client import QdrantClient
        >>> from bge_integrations.llama_index import BGESparseEmbedding
        >>> sparse = BGESparseEmbedding()
        >>> store = QdrantVectorStore("documents", client=QdrantClient(":memory:"), enable_hybrid=True,
        ...     sparse_doc_fn=sparse.sparse_doc_fn, sparse_query_fn=sparse.sparse_query_fn)

    The model is loaded when the object is created; copies and pickles contain the settings, never the weights.
    """

    model_name: ModelName = Field(
        default="BAAI/bge-m3", validation_alias=AliasChoices("model_name", "model"), min_length=1
    )
    """Hub id, checkpoint folder, the URL of a server, or "pocket" (the small bundled demonstration model). `model=`
    works too."""
    text_instruction: str | None = None
    """Prepended to each text; None uses the catalogue's for this model (bge-m3 has none), "" disables it."""
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    """Number of texts passed to the model at a time; it forms its own batches from them."""

    model_config = ConfigDict(
        validate_assignment=True,
        populate_by_name=True,
        protected_namespaces=("pydantic_model_",),
    )

    _arguments = arguments_of(QuerySettings, model="model_name", passage_instruction="text_instruction")
    _model: LazyModel[SparseView] = PrivateAttr(default_factory=lambda: LazyModel(load_sparse))

    @classmethod
    def class_name(cls) -> str:
        return "BGESparseEmbedding"

    def similarity(self, embedding1: dict[int, float], embedding2: dict[int, float]) -> float:
        """Return the dot product of the weights, as bge-m3 was trained; it is not a cosine."""
        return sum(weight * embedding2[token] for token, weight in embedding1.items() if token in embedding2)

    def sparse_doc_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Return token ids and weights of texts, for `QdrantVectorStore(sparse_doc_fn=)`."""
        return _columns(self._loaded().encode(texts, "passage"))

    def sparse_query_fn(self, queries: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Return token ids and weights of queries, for `QdrantVectorStore(sparse_query_fn=)`."""
        return _columns(self._loaded().encode(queries, "query"))

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        sparse: SparseView = self._loaded()
        return sparse.encode(check_query(query), "query")[0].to_dict()

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        sparse: SparseView = await self._aloaded()
        return (await sparse.aencode(check_query(query), "query"))[0].to_dict()

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        sparse: SparseView = self._loaded()
        return sparse.encode(texts, "passage").to_dicts()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        sparse: SparseView = await self._aloaded()
        rows = await sparse.aencode(texts, "passage")
        return await asyncio.to_thread(rows.to_dicts)


def _columns(rows: SparseVectors) -> tuple[list[list[int]], list[list[float]]]:
    return [row.indices.tolist() for row in rows], [row.values.tolist() for row in rows]
