"""BGE-M3's sparse vectors as LlamaIndex's `BaseSparseEmbedding`, and for its Qdrant store."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from pydantic import BeforeValidator

from bge_integrations.adapter_kit.lazy_model import Handle
from bge_integrations.core.halves import SparseHalf, load_sparse
from bge_integrations.llama_index.component import Component
from bge_integrations.outputs import SparseVectors
from bge_integrations.validation import path_as_text

#: Fields that the core takes by the same name.
_CORE_SETTINGS = (
    "device",
    "dtype",
    "max_length",
    "query_instruction",
    "cache_folder",
    "local_files_only",
    "revision",
)


class BGESparseEmbedding(Component, BaseSparseEmbedding):
    """Lexical weights of bge-m3, {token id: weight > 0} per text.

    `sparse_doc_fn` and `sparse_query_fn` are what LlamaIndex's `QdrantVectorStore` takes by these names. Beside
    `BGEEmbedding` over the same model and settings, texts and queries go through the model once: what one of the two
    computes serves the other.

    Example:
        >>> from llama_index.vector_stores.qdrant import QdrantVectorStore
        >>> from qdrant_client import QdrantClient
        >>> from bge_integrations.llama_index import BGESparseEmbedding
        >>> sparse = BGESparseEmbedding()
        >>> store = QdrantVectorStore("documents", client=QdrantClient(":memory:"), enable_hybrid=True,
        ...     sparse_doc_fn=sparse.sparse_doc_fn, sparse_query_fn=sparse.sparse_query_fn)

    The model is loaded when the object is made; copies and pickles carry the settings, never the weights.
    """

    model_name: Annotated[str, BeforeValidator(path_as_text)] = Field(default="BAAI/bge-m3", min_length=1)
    """Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model)."""
    device: str | list[str] | None = None
    """"cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one."""
    dtype: str | None = None
    """"float32", "bfloat16" or "float16"; None takes bfloat16 on CUDA and float32 on CPU."""
    max_length: int | None = None
    """Longest text in tokens; None takes what the model was made for. Longer texts are cut, with a warning."""
    query_instruction: str | None = None
    """Put before each query; None takes the catalogue's for this model (bge-m3 has none), "" none."""
    text_instruction: str | None = None
    """Likewise before each text."""
    cache_folder: str | None = None
    """The hub's cache; None takes the usual one."""
    local_files_only: bool = False
    """Never touch the network."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    """Texts handed over at a time; the core packs its own batches from them."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        validate_assignment=True,
        protected_namespaces=("pydantic_model_",),
    )

    _handle: Handle[SparseHalf] = PrivateAttr(default_factory=lambda: Handle(load_sparse))

    @classmethod
    def class_name(cls) -> str:
        return "BGESparseEmbedding"

    def similarity(self, embedding1: dict[int, float], embedding2: dict[int, float]) -> float:
        """Σ over the token ids that both have of the weights' products, as bge-m3 was trained; not a cosine."""
        return sum(weight * embedding2[token] for token, weight in embedding1.items() if token in embedding2)

    def sparse_doc_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Token ids and weights of texts, for `QdrantVectorStore(sparse_doc_fn=)`."""
        return _columns(self._sparse().passages(texts))

    def sparse_query_fn(self, queries: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Token ids and weights of queries, for `QdrantVectorStore(sparse_query_fn=)`."""
        return _columns(self._sparse().queries(queries))

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        return self._sparse().query(query).to_dict()

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        sparse = await self._handle.aget(self._settings())
        return (await sparse.aquery(query)).to_dict()

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return self._sparse().passages(texts).to_dicts()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        sparse = await self._handle.aget(self._settings())
        found = await sparse.apassages(texts)
        return await asyncio.to_thread(found.to_dicts)

    def _sparse(self) -> SparseHalf:
        return self._handle.get(self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "passage_instruction": self.text_instruction,
            **{name: getattr(self, name) for name in _CORE_SETTINGS},
        }


def _columns(rows: SparseVectors) -> tuple[list[list[int]], list[list[float]]]:
    return [row.indices.tolist() for row in rows], [row.values.tolist() for row in rows]
