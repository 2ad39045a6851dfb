"""BGE dense embeddings as LlamaIndex's `BaseEmbedding`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit import DenseView, LazyModel, arguments_of, load_dense
from bge_integrations.adapter_kit.settings import EmbedderSettings, ModelName
from bge_integrations.llama_index.component import Component
from bge_integrations.llama_index.keyed_cache import KeyedCache
from bge_integrations.outputs import to_lists
from bge_integrations.validation import check_query

if TYPE_CHECKING:
    from bge_integrations.core.embedder import TextKind


class BGEEmbedding(Component, EmbedderSettings, BaseEmbedding):
    """Dense vectors of any BGE embedding model, with the right instruction, pooling and length.

    Queries and texts are embedded as the model was trained: a query gets the query instruction in front. All instances
    of one model share its weights, and concurrent calls are merged into batches.

    Example:
        >>> from llama_index.core import Settings
        >>> from bge_integrations.llama_index import BGEEmbedding
        >>> Settings.embed_model = BGEEmbedding(model_name="BAAI/bge-small-en-v1.5")

    The model is loaded when the object is made, so that a wrong name fails there. Pickles, copies and `to_dict` carry
    the settings, never the weights. Vectors in an `embeddings_cache` are kept apart by model, settings and instruction,
    so that a text's vector never answers a query.
    """

    model_name: ModelName = Field(default="BAAI/bge-base-en-v1.5", min_length=1)
    """Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model)."""
    text_instruction: str | None = None
    """Put before each text; None takes the catalogue's for this model, "" none."""
    normalize: bool = True
    """Return unit vectors."""
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    """Texts handed over at a time; the core packs its own batches from them."""
    show_progress_bar: bool = False
    """Show a bar while texts are embedded."""
    # no setting, as LlamaIndex's own rate_limiter: a repr of the store would make the ingestion cache's key useless
    embeddings_cache: Any | None = Field(default=None, exclude=True)
    """A key-value store of LlamaIndex's for vectors."""

    model_config = ConfigDict(
        validate_assignment=True,
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
        """The vector of a query, its instruction in front."""
        return BaseEmbedding.get_query_embedding(self._keyed("query"), query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """As `get_query_embedding`, without blocking the event loop."""
        return await BaseEmbedding.aget_query_embedding(await self._akeyed("query"), query)

    def get_text_embedding(self, text: str) -> list[float]:
        """The vector of a text."""
        return BaseEmbedding.get_text_embedding(self._keyed("passage"), text)

    async def aget_text_embedding(self, text: str) -> list[float]:
        """As `get_text_embedding`, without blocking the event loop."""
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
        """This embedding, or with an `embeddings_cache` a copy whose cache answers for this kind of text only.

        LlamaIndex asks its cache by the text alone, so that a text's vector would answer a query.
        """
        cache = self.embeddings_cache
        if cache is None:
            return self
        self._loaded()  # what is loaded stays with this object, and goes with its copy
        keyed = self.model_copy()  # key and vectors by the copy's settings, if this object's change meanwhile
        made_by = {**keyed._loaded().embedder.vector_settings(kind), "normalize": keyed.normalize}
        keyed.embeddings_cache = KeyedCache(cache, made_by)
        return keyed

    async def _akeyed(self, kind: TextKind) -> Self:
        return self if self.embeddings_cache is None else await asyncio.to_thread(self._keyed, kind)
