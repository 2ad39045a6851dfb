"""BGE dense embeddings as LlamaIndex's `BaseEmbedding`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from pydantic import AliasChoices

from bge_integrations.adapter_kit import DenseView, LazyModel, arguments_of, load_dense
from bge_integrations.adapter_kit.settings import EmbedderSettings, ModelName
from bge_integrations.llama_index.component import EmbeddingComponent
from bge_integrations.llama_index.keyed_cache import KeyedCache
from bge_integrations.outputs import to_lists
from bge_integrations.validation import check_query

if TYPE_CHECKING:
    from bge_integrations.core.embedder import TextKind


class BGEEmbedding(EmbeddingComponent, EmbedderSettings, BaseEmbedding):
    """Dense vectors of any BGE embedding model, with the right instruction, pooling and length.

    Queries and texts are embedded as the model was trained: queries are prefixed with the query instruction. All
    instances of one model share its weights, and concurrent calls are merged into batches.

    Example:
        >>> from llama_index.core import Settings
        >>> from bge_integrations.llama_index import BGEEmbedding
        >>> Settings.embed_model = BGEEmbedding(model_name="BAAI/bge-small-en-v1.5")

    The model is loaded when the object is created, so a wrong name fails right away. Pickles, copies and `to_dict`
    contain the settings, never the weights. An `embeddings_cache` is keyed by model, settings and instruction, so that
    a query never gets the vector of a text.
    """

    model_name: ModelName = Field(
        default="BAAI/bge-base-en-v1.5", validation_alias=AliasChoices("model_name", "model"), min_length=1
    )
    """Hub id, checkpoint folder, the URL of a server, or "pocket" (the small bundled demonstration model). `model=`
    works too."""
    text_instruction: str | None = None
    """Prepended to each text; None uses the catalogue's for this model, "" disables it."""
    normalize: bool = True
    """Return unit vectors."""
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    """Number of texts passed to the model at a time; it forms its own batches from them."""
    show_progress_bar: bool = False
    """Show a progress bar while texts are embedded."""
    # excluded like LlamaIndex's rate_limiter: the store's repr would change the ingestion cache's keys on every run
    embeddings_cache: Any | None = Field(default=None, exclude=True)
    """A LlamaIndex key-value store that caches vectors."""

    model_config = ConfigDict(
        validate_assignment=True,
        populate_by_name=True,
        protected_namespaces=("pydantic_model_",),
        arbitrary_types_allowed=True,
    )

    _arguments = arguments_of(
        EmbedderSettings, model="model_name", passage_instruction="text_instruction", normalize="normalize"
    )
    _model: LazyModel[DenseView] = PrivateAttr(default_factory=lambda: LazyModel(load_dense))

    @classmethod
    def class_name(cls) -> str:
        return "BGEEmbedding"

    def get_query_embedding(self, query: str) -> list[float]:
        """Return the vector of a query, embedded with its instruction."""
        return BaseEmbedding.get_query_embedding(self._keyed("query"), query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Async version of `get_query_embedding`; does not block the event loop."""
        return await BaseEmbedding.aget_query_embedding(await self._akeyed("query"), query)

    def get_text_embedding(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return BaseEmbedding.get_text_embedding(self._keyed("passage"), text)

    async def aget_text_embedding(self, text: str) -> list[float]:
        """Async version of `get_text_embedding`; does not block the event loop."""
        return await BaseEmbedding.aget_text_embedding(await self._akeyed("passage"), text)

    def _get_text_embeddings_cached(self, texts: list[str]) -> list[list[float]]:
        return BaseEmbedding._get_text_embeddings_cached(self._keyed("passage"), texts)

    async def _aget_text_embeddings_cached(self, texts: list[str]) -> list[list[float]]:
        return await BaseEmbedding._aget_text_embeddings_cached(await self._akeyed("passage"), texts)

    def _get_query_embedding(self, query: str) -> list[float]:
        return to_lists(self._loaded().encode(check_query(query), "query"))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        dense = await self._aloaded()
        return to_lists(await dense.aencode(check_query(query), "query"))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return to_lists(self._loaded().encode(texts, "passage", self.show_progress_bar))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        dense = await self._aloaded()
        return await asyncio.to_thread(to_lists, await dense.aencode(texts, "passage", self.show_progress_bar))

    def _keyed(self, kind: TextKind) -> Self:
        """Return this embedding, or a copy whose `embeddings_cache` is limited to this kind of text.

        LlamaIndex uses the bare text as the cache key, so a query could get the vector of a passage.
        """
        cache = self.embeddings_cache
        if cache is None:
            return self
        self._loaded()  # before copying, so that both use the loaded model
        keyed = self.model_copy()  # its settings can't change between key and vectors
        made_by = {**keyed._loaded().embedder.vector_settings(kind), "normalize": keyed.normalize}
        keyed.embeddings_cache = KeyedCache(cache, made_by)
        return keyed

    async def _akeyed(self, kind: TextKind) -> Self:
        return self if self.embeddings_cache is None else await asyncio.to_thread(self._keyed, kind)
