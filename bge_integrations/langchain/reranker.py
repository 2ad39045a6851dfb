"""BGE rerankers as LangChain's document compressor and cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from langchain_core.runnables.config import RunnableConfig, ensure_config
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit import HoldsModel, LazyModel, arguments_of
from bge_integrations.adapter_kit.scored_metadata import reranked_metadata
from bge_integrations.adapter_kit.settings import ModelName, ModelNameAlias, RerankerSettings, SelectionSettings, TopN
from bge_integrations.core.loading import load_reranker
from bge_integrations.core.reranker import Reranker
from bge_integrations.errors import InvalidInputError
from bge_integrations.scoring import select_best
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )


class BGEReranker(
    ModelNameAlias, HoldsModel, RerankerSettings, SelectionSettings, BaseDocumentCompressor, BaseCrossEncoder
):
    """A document compressor and cross-encoder that reranks documents with a BGE reranker, best first.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from bge_integrations.langchain import BGEEmbeddings, BGEReranker
        >>> store = InMemoryVectorStore.from_texts(["Pandas eat bamboo.", "Rome is in Italy."], BGEEmbeddings())
        >>> retriever = BGEReranker(top_n=3).wrap(store.as_retriever(search_kwargs={"k": 20}))
        >>> retriever.invoke("What do pandas eat?")[0].metadata["relevance_score"]

    The input documents are never modified: the results are copies with the same ids and with the score in
    `metadata["relevance_score"]`. The scores of a `BGEM3Retriever` or `BGEM3VectorStore` stay beside it, the one that
    it sorted by as `metadata["retrieval_score"]`. Pickles and copies contain the settings, never the weights.
    """

    model: ModelName = Field(
        default="BAAI/bge-reranker-v2-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, checkpoint folder, the URL of a server, or "pocket". `model_name=` works too."""
    top_n: TopN = 3
    """Number of documents to keep; None keeps all."""

    model_config = ConfigDict(populate_by_name=True, validate_assignment=True)

    _arguments = arguments_of(RerankerSettings, model="model")
    _model: LazyModel[Reranker] = PrivateAttr(default_factory=lambda: LazyModel(load_reranker))

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the best `top_n` documents for the query, best first, as copies with `relevance_score`."""
        return self._rerank(documents, query, self.top_n)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Async version of `compress_documents`; does not block the event loop."""
        return await self._arerank(documents, query, self.top_n)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return the relevance score of each (query, passage) pair."""
        scores: list[float] = self._loaded().score(text_pairs, normalize=self.normalize).tolist()
        return scores

    def wrap(self, retriever: RetrieverLike) -> RerankedRetriever:
        """Return a retriever that reranks the results of `retriever`.

        Args:
            retriever: A retriever, or any runnable that takes a query and returns documents: `retriever.with_retry()`,
                `retriever.configurable_fields(…)`, or a chain.
        """
        return RerankedRetriever(retriever=retriever, reranker=self)

    def _rerank(self, documents: Sequence[Document], query: str, top_n: int | None) -> list[Document]:
        scores = self._loaded().score(_pairs(query, documents), normalize=self.normalize)
        return self._select(documents, scores.tolist(), top_n)

    async def _arerank(self, documents: Sequence[Document], query: str, top_n: int | None) -> list[Document]:
        reranker = await self._aloaded()
        scores = await reranker.ascore(_pairs(query, documents), normalize=self.normalize)
        return self._select(documents, scores.tolist(), top_n)

    def _select(self, documents: Sequence[Document], scores: list[float], top_n: int | None) -> list[Document]:
        chosen = [(documents[i], scores[i]) for i in select_best(scores, top_n, self.score_threshold)]
        return [
            document.model_copy(update={"metadata": reranked_metadata(document.metadata, score)})
            for document, score in chosen
        ]


class RerankedRetriever(BaseRetriever):
    """A retriever that reranks the results of another one. Created by `BGEReranker.wrap`.

    `invoke(query, k=5)` returns at most 5 documents for that call, regardless of the reranker's `top_n`.
    """

    retriever: RetrieverLike
    """Retrieves the candidates."""
    reranker: BGEReranker
    """Reranks them and keeps the best."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Return the best documents for the query, best first."""
        return super().invoke(input, config, _configurable=ensure_config(config).get("configurable"), **kwargs)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Return the same as `invoke` without blocking the event loop."""
        return await super().ainvoke(input, config, _configurable=ensure_config(config).get("configurable"), **kwargs)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        _configurable: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        documents = self.retriever.invoke(query, _config(run_manager.get_child(), _configurable), **kwargs)
        return self.reranker._rerank(_checked(documents), query, self._top_n(k))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        _configurable: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        documents = await self.retriever.ainvoke(query, _config(run_manager.get_child(), _configurable), **kwargs)
        return await self.reranker._arerank(_checked(documents), query, self._top_n(k))

    def _top_n(self, k: int | None) -> int | None:
        return self.reranker.top_n if k is None else check_whole_number(k, "k")


def _config(callbacks: Callbacks, configurable: dict[str, Any] | None) -> RunnableConfig:
    """Return the configuration of the wrapped retriever: a retriever does not pass on its own configurable fields."""
    return {"callbacks": callbacks, "configurable": configurable} if configurable else {"callbacks": callbacks}


def _checked(documents: object) -> list[Document]:
    """Return the results of a wrapped runnable if they are documents."""
    if not isinstance(documents, (list, tuple)):
        raise InvalidInputError(
            f"the wrapped runnable returned {type(documents).__name__}, not a list of documents",
            argument="retriever",
            advice="wrap the part of the chain that ends with the retriever",
        )
    for document in documents:
        if not isinstance(document, Document):
            raise InvalidInputError(
                f"the wrapped runnable returned a list with {type(document).__name__}, not only documents",
                argument="retriever",
                advice="wrap the part of the chain that ends with the retriever",
            )
    return list(documents)


def _pairs(query: str, documents: Sequence[Document]) -> list[tuple[str, str]]:
    if not isinstance(documents, Sequence) or not all(isinstance(each, Document) for each in documents):
        raise InvalidInputError(
            "documents must be a list of documents", argument="documents", advice="wrap texts: Document(text)"
        )
    return [(query, document.page_content) for document in documents]
