"""BGE rerankers as LangChain's document compressor and cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import AfterValidator, AliasChoices, BeforeValidator, ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit.lazy_model import Handle, HoldsModel
from bge_integrations.adapter_kit.settings import one_cutoff
from bge_integrations.core.reranker import Reranker, load_reranker
from bge_integrations.scoring import select_best
from bge_integrations.validation import check_score_threshold, check_top_n, check_whole_number, path_as_text

if TYPE_CHECKING:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )


class BGEReranker(HoldsModel, BaseDocumentCompressor, BaseCrossEncoder):
    """Orders documents by a BGE reranker, best first.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from bge_integrations.langchain import BGEEmbeddings, BGEReranker
        >>> store = InMemoryVectorStore.from_texts(["Pandas eat bamboo.", "Rome is in Italy."], BGEEmbeddings())
        >>> retriever = BGEReranker(top_n=3).wrap(store.as_retriever(search_kwargs={"k": 20}))
        >>> retriever.invoke("What do pandas eat?")[0].metadata["relevance_score"]

    The documents passed in are never changed: the result holds copies with their ids, and with the score in
    `metadata["relevance_score"]`. Pickling and copying carry the settings, never the weights.
    """

    model: Annotated[str, BeforeValidator(path_as_text)] = Field(
        default="BAAI/bge-reranker-v2-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, checkpoint folder, or "pocket". `model_name=` works too."""
    top_n: Annotated[int | None, AfterValidator(check_top_n)] = 3
    """How many documents to keep; None keeps all."""
    score_threshold: Annotated[float | None, AfterValidator(check_score_threshold)] = None
    """Drop documents that score less. Compared to what `relevance_score` holds: logits, or (0, 1) if normalised."""
    normalize: bool = False
    """Give the logits' sigmoid, in (0, 1), instead of the logits; the order is the same."""
    device: str | list[str] | None = None
    dtype: str | None = None
    max_length: int | None = None
    """Longest query and document together, in tokens; None takes 512. Longer documents are cut, with a warning."""
    query_max_length: int | None = None
    """Longest query in tokens; None takes three quarters of max_length."""
    cutoff_layers: Annotated[int | None, BeforeValidator(one_cutoff)] = None
    """Layerwise and lightweight rerankers only: score after so many layers, which is quicker; None takes all."""
    compress_ratio: int | None = None
    """Lightweight reranker only: each so many neighbouring states of a passage become one: 1, 2, 4 or 8."""
    compress_layers: int | list[int] | None = None
    """Lightweight reranker only: before which layers that happens; None takes 8."""
    prompt: str | None = None
    """LLM rerankers only: what is asked behind query and passage, instead of the model's own question."""
    family: str | None = None
    """"llm_reranker" for your own reranker of this kind; None where the checkpoint says what it is."""
    cache_folder: str | None = None
    local_files_only: bool = False
    revision: str | None = None

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        populate_by_name=True,
        validate_assignment=True,
    )

    _handle: Handle[Reranker] = PrivateAttr(default_factory=lambda: Handle(load_reranker))

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The best `top_n` documents for the query, best first, as copies with `relevance_score`."""
        return self._rerank(documents, query, self.top_n)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As `compress_documents`, without blocking the event loop."""
        return await self._arerank(documents, query, self.top_n)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """The relevance of each (query, passage) pair."""
        scores: list[float] = self._handle.get(self._settings()).score(text_pairs, normalize=self.normalize).tolist()
        return scores

    def wrap(self, retriever: BaseRetriever) -> RerankedRetriever:
        """A retriever that reranks what `retriever` finds."""
        return RerankedRetriever(retriever=retriever, reranker=self)

    def _rerank(self, documents: Sequence[Document], query: str, top_n: int | None) -> list[Document]:
        scores = self._handle.get(self._settings()).score(_pairs(query, documents), normalize=self.normalize)
        return self._select(documents, scores.tolist(), top_n)

    async def _arerank(self, documents: Sequence[Document], query: str, top_n: int | None) -> list[Document]:
        reranker = await self._handle.aget(self._settings())
        scores = await reranker.ascore(_pairs(query, documents), normalize=self.normalize)
        return self._select(documents, scores.tolist(), top_n)

    def _select(self, documents: Sequence[Document], scores: list[float], top_n: int | None) -> list[Document]:
        chosen = [(documents[place], scores[place]) for place in select_best(scores, top_n, self.score_threshold)]
        return [
            document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
            for document, score in chosen
        ]

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(exclude={"top_n", "score_threshold", "normalize"})


class RerankedRetriever(BaseRetriever):
    """What `BGEReranker.wrap` makes: retrieves, then reranks.

    `invoke(query, k=5)` returns at most 5 documents for that call, whatever the reranker's `top_n`.
    """

    retriever: BaseRetriever
    """Finds the candidates."""
    reranker: BGEReranker
    """Orders and cuts them."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, **kwargs: Any
    ) -> list[Document]:
        found = self.retriever.invoke(query, config={"callbacks": run_manager.get_child()}, **kwargs)
        return self.reranker._rerank(found, query, self._top_n(k))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **kwargs: Any
    ) -> list[Document]:
        found = await self.retriever.ainvoke(query, config={"callbacks": run_manager.get_child()}, **kwargs)
        return await self.reranker._arerank(found, query, self._top_n(k))

    def _top_n(self, k: int | None) -> int | None:
        return self.reranker.top_n if k is None else check_whole_number(k, "k")


def _pairs(query: str, documents: Sequence[Document]) -> list[tuple[str, str]]:
    return [(query, document.page_content) for document in documents]
