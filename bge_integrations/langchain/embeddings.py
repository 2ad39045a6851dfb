"""BGE dense embeddings as LangChain's `Embeddings`."""

from __future__ import annotations

import asyncio

from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit import DenseView, HoldsModel, LazyModel, arguments_of, load_dense
from bge_integrations.adapter_kit.settings import EmbedderSettings, ModelName, ModelNameAlias
from bge_integrations.langchain.chroma_check import check_chroma
from bge_integrations.outputs import to_lists
from bge_integrations.validation import check_query


class BGEEmbeddings(ModelNameAlias, HoldsModel, EmbedderSettings, Embeddings):
    """Dense vectors of any BGE embedding model, with the right instruction, pooling and length.

    Queries and documents are embedded as the model was trained: `embed_query` prepends the query instruction to the
    query. All instances of one model share its weights, and concurrent calls are merged into batches.

    Example:
        >>> from bge_integrations.langchain import BGEEmbeddings
        >>> embeddings = BGEEmbeddings(model="BAAI/bge-small-en-v1.5")
        >>> vector = embeddings.embed_query("What is a dense retriever?")

    The model is loaded when the object is created, so a wrong name fails right away. Pickles, copies and `model_dump`
    contain the settings, never the weights. In LangChain's Chroma, a collection whose vectors another model made raises
    WrongModelError when texts are added or searched.
    """

    model: ModelName = Field(
        default="BAAI/bge-base-en-v1.5", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, checkpoint folder, the URL of a server, or "pocket" (the small bundled demonstration model).
    `model_name=` works too."""
    passage_instruction: str | None = None
    """Prepended to each document; None uses the catalogue's for this model, "" disables it."""
    show_progress: bool = False
    """Show a progress bar while documents are embedded."""

    model_config = ConfigDict(populate_by_name=True)

    _arguments = arguments_of(EmbedderSettings, model="model", passage_instruction="passage_instruction")
    _model: LazyModel[DenseView] = PrivateAttr(default_factory=lambda: LazyModel(load_dense))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one unit vector per text, each embedded as a passage."""
        check_chroma(self._loaded())
        return to_lists(self._loaded().encode(texts, "passage", self.show_progress))

    def embed_query(self, text: str) -> list[float]:
        """Return the unit vector of a query, embedded with its instruction."""
        check_chroma(self._loaded())
        return to_lists(self._loaded().encode(check_query(text), "query"))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Async version of `embed_documents`; does not block the event loop."""
        dense = await self._aloaded()
        return await asyncio.to_thread(to_lists, await dense.aencode(texts, "passage", self.show_progress))

    async def aembed_query(self, text: str) -> list[float]:
        """Async version of `embed_query`; does not block the event loop."""
        dense = await self._aloaded()
        return to_lists(await dense.aencode(check_query(text), "query"))[0]
