"""BGE dense embeddings as LangChain's `Embeddings`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from bge_integrations.adapter_kit.lazy_model import Handle, HoldsModel
from bge_integrations.adapter_kit.settings import one_query_instruction
from bge_integrations.core.halves import DenseHalf, load_dense
from bge_integrations.outputs import to_lists
from bge_integrations.validation import path_as_text


class BGEEmbeddings(HoldsModel, BaseModel, Embeddings):
    """Dense vectors of any BGE embedding model, with the right instruction, pooling and length.

    Queries and documents are embedded as the model was trained: `embed_query` puts the query instruction in front.
    All instances of one model share its weights, and concurrent calls are merged into batches.

    Example:
        >>> from bge_integrations.langchain import BGEEmbeddings
        >>> embeddings = BGEEmbeddings(model="BAAI/bge-small-en-v1.5")
        >>> vector = embeddings.embed_query("What is a dense retriever?")

    The model is loaded when the object is made, so that a wrong name fails there. Pickling, copying and `model_dump`
    carry the settings, never the weights.
    """

    model: Annotated[str, BeforeValidator(path_as_text)] = Field(
        default="BAAI/bge-base-en-v1.5", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model). `model_name=` works too."""
    device: str | list[str] | None = None
    """"cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one."""
    dtype: str | None = None
    """"float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None takes bfloat16 on CUDA and
    float32 on CPU."""
    query_instruction: str | None = None
    """Put before each query; None takes the catalogue's for this model, "" none. The models with a format of their own
    (bge-multilingual-gemma2, bge-en-icl, e5-mistral, gte-Qwen2) get the task's instruction alone. `task_instruction=`
    works too."""
    passage_instruction: str | None = None
    """Likewise before each document."""
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
    max_length: int | None = None
    """Longest text in tokens; None takes what the model was made for. Longer texts are cut, with a warning."""
    truncate_dim: int | None = None
    """Keep so many dimensions; None keeps all."""
    cache_folder: str | None = None
    """The hub's cache; None takes the usual one."""
    local_files_only: bool = False
    """Never touch the network."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    show_progress: bool = False
    """Show a bar while documents are embedded."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), populate_by_name=True
    )

    _handle: Handle[DenseHalf] = PrivateAttr(default_factory=lambda: Handle(load_dense))

    _one_query_instruction = model_validator(mode="before")(one_query_instruction)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One unit vector per text; no instruction but what the model has for passages."""
        return to_lists(self._handle.get(self._settings()).passages(texts, self.show_progress))

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of a query, its instruction in front."""
        vector: list[float] = self._handle.get(self._settings()).query(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the event loop."""
        dense = await self._handle.aget(self._settings())
        return await asyncio.to_thread(to_lists, await dense.apassages(texts, self.show_progress))

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the event loop."""
        dense = await self._handle.aget(self._settings())
        vector: list[float] = (await dense.aquery(text)).tolist()
        return vector

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(exclude={"show_progress"})
