"""BGE dense embeddings as LlamaIndex's `BaseEmbedding`."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Annotated, Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from pydantic import BeforeValidator, model_validator

from bge_integrations.adapter_kit.lazy_model import Handle
from bge_integrations.adapter_kit.settings import one_query_instruction
from bge_integrations.core.halves import DenseHalf, load_dense
from bge_integrations.llama_index.component import Component
from bge_integrations.llama_index.keyed_cache import KeyedCache
from bge_integrations.outputs import to_lists
from bge_integrations.validation import path_as_text

if TYPE_CHECKING:
    from bge_integrations.core.embedder import TextKind

#: Fields that the core takes by the same name.
_CORE_SETTINGS = (
    "device",
    "dtype",
    "max_length",
    "query_instruction",
    "normalize",
    "family",
    "pooling",
    "task",
    "examples",
    "truncate_dim",
    "cache_folder",
    "local_files_only",
    "revision",
)


class BGEEmbedding(Component, BaseEmbedding):
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

    model_name: Annotated[str, BeforeValidator(path_as_text)] = Field(default="BAAI/bge-base-en-v1.5", min_length=1)
    """Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model)."""
    device: str | list[str] | None = None
    """"cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one."""
    dtype: str | None = None
    """"float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None takes bfloat16 on CUDA and
    float32 on CPU."""
    max_length: int | None = None
    """Longest text in tokens; None takes what the model was made for. Longer texts are cut, with a warning."""
    query_instruction: str | None = None
    """Put before each query; None takes the catalogue's for this model, "" none. The models with a format of their own
    (bge-multilingual-gemma2, bge-en-icl, e5-mistral, gte-Qwen2) get the task's instruction alone. `task_instruction=`
    works too."""
    text_instruction: str | None = None
    """Likewise before each text."""
    normalize: bool = True
    """Give unit vectors."""
    family: str | None = None
    """"encoder", "m3", "decoder", "bidirectional_decoder" or "icl", for your own checkpoint without
    sentence-transformers files; else None."""
    pooling: str | None = None
    """"cls", "mean" or "last_token", for your own checkpoint without sentence-transformers files; else None."""
    task: str | None = None
    """llm-embedder: which of its tasks. Models with an instruction format: "web_search" (where it is None), "sts",
    "summarization" or "bitext"."""
    examples: list[dict[str, str]] | None = None
    """bge-en-icl only: what to show it, dicts of "query", "response" and, unless it is the queries' own, "instruct"."""
    truncate_dim: int | None = None
    """Keep so many dimensions; None keeps all."""
    cache_folder: str | None = None
    """The hub's cache; None takes the usual one."""
    local_files_only: bool = False
    """Never touch the network."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    """Texts handed over at a time; the core packs its own batches from them."""
    show_progress_bar: bool = False
    """Show a bar while texts are embedded."""
    # no setting, as LlamaIndex's own rate_limiter: a repr of the store would make the ingestion cache's key useless
    embeddings_cache: Any | None = Field(default=None, exclude=True)
    """A key-value store of LlamaIndex's for vectors."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        validate_assignment=True,
        protected_namespaces=("pydantic_model_",),
        arbitrary_types_allowed=True,
    )

    _handle: Handle[DenseHalf] = PrivateAttr(default_factory=lambda: Handle(load_dense))

    _one_query_instruction = model_validator(mode="before")(one_query_instruction)

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
        vector: list[float] = self._dense().query(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        dense = await self._handle.aget(self._settings())
        vector: list[float] = (await dense.aquery(query)).tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return to_lists(self._dense().passages(texts, self.show_progress_bar))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        dense = await self._handle.aget(self._settings())
        return await asyncio.to_thread(to_lists, await dense.apassages(texts, self.show_progress_bar))

    def _keyed(self, kind: TextKind) -> Self:
        """This embedding, or with an `embeddings_cache` a copy whose cache answers for this kind of text only.

        LlamaIndex asks its cache by the text alone, so that a text's vector would answer a query.
        """
        cache = self.embeddings_cache
        if cache is None:
            return self
        self._dense()  # what is loaded stays with this object, and goes with its copy
        keyed = self.model_copy()  # key and vectors by the copy's settings, if this object's change meanwhile
        made_by = {**keyed._dense().embedder.vector_settings(kind), "normalize": keyed.normalize}
        keyed.embeddings_cache = KeyedCache(cache, made_by)
        return keyed

    async def _akeyed(self, kind: TextKind) -> Self:
        return self if self.embeddings_cache is None else await asyncio.to_thread(self._keyed, kind)

    def _dense(self) -> DenseHalf:
        return self._handle.get(self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "passage_instruction": self.text_instruction,
            # copies, so that examples changed in place are seen to be others
            **{name: copy.deepcopy(getattr(self, name)) for name in _CORE_SETTINGS},
        }
