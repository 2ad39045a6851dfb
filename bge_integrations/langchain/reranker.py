"""BGE rerankers as LangChain's document compressor and cross-encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr, field_validator

from bge_integrations.core.handle import Handle
from bge_integrations.core.reranker import Reranker, load_reranker
from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )


class BGEReranker(BaseDocumentCompressor, BaseCrossEncoder):
    """Orders documents by a BGE cross-encoder, best first.

    Example:
        >>> from bge_integrations.langchain import BGEReranker
        >>> retriever = BGEReranker(top_n=3).wrap(store.as_retriever(search_kwargs={"k": 20}))
        >>> retriever.invoke("What is a dense retriever?")[0].metadata["relevance_score"]

    The documents passed in are never changed: the result holds copies with their ids, and with the score in
    `metadata["relevance_score"]`. Pickling and copying carry the settings, never the weights.
    """

    model: str = Field(
        default="BAAI/bge-reranker-v2-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, folder of a one-logit sequence classifier, or "pocket". `model_name=` works too."""
    top_n: int | None = 3
    """How many documents to keep; None keeps all."""
    score_threshold: float | None = None
    """Drop documents that score less. Compared to what `relevance_score` holds: logits, or (0, 1) if normalised."""
    normalize: bool = False
    """Give the logits' sigmoid, in (0, 1), instead of the logits; the order is the same."""
    device: str | None = None
    dtype: str | None = None
    max_length: int | None = None
    """Longest query and document together, in tokens; None takes 512. Longer documents are cut, with a warning."""
    query_max_length: int | None = None
    cache_folder: str | None = None
    local_files_only: bool = False
    revision: str | None = None

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True, validate_assignment=True)

    _handle: Handle[Reranker] = PrivateAttr(default_factory=lambda: Handle(load_reranker))

    @field_validator("score_threshold")
    @classmethod
    def _check_score_threshold(cls, score_threshold: float | None) -> float | None:
        if score_threshold is not None and math.isnan(score_threshold):
            raise ValueError("score_threshold=nan would drop every document; use a number, or None")
        return score_threshold

    @field_validator("top_n")
    @classmethod
    def _check_top_n(cls, top_n: int | None) -> int | None:
        if top_n is not None and top_n < 1:
            raise ValueError(f"top_n={top_n} must be at least 1, or None to keep all documents")
        return top_n

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._handle.get(self._settings())  # outside validation, which would wrap the core's errors

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The best `top_n` documents for the query, best first, as copies with `relevance_score`."""
        scores = self._handle.get(self._settings()).score(_pairs(query, documents), normalize=self.normalize)
        return self._select(documents, scores.tolist())

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As `compress_documents`, without blocking the event loop."""
        reranker = await self._handle.aget(self._settings())
        scores = await reranker.ascore(_pairs(query, documents), normalize=self.normalize)
        return self._select(documents, scores.tolist())

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """The relevance of each (query, passage) pair."""
        scores: list[float] = self._handle.get(self._settings()).score(text_pairs, normalize=self.normalize).tolist()
        return scores

    def wrap(self, retriever: BaseRetriever) -> RerankedRetriever:
        """A retriever that reranks what `retriever` finds."""
        return RerankedRetriever(retriever=retriever, reranker=self)

    def _select(self, documents: Sequence[Document], scores: list[float]) -> list[Document]:
        ranked = sorted(zip(documents, scores, strict=True), key=lambda pair: -pair[1])
        if self.score_threshold is not None:
            ranked = [pair for pair in ranked if pair[1] >= self.score_threshold]
        return [
            document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
            for document, score in ranked[: self.top_n]
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
        return list(self._for_call(k).compress_documents(found, query))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **kwargs: Any
    ) -> list[Document]:
        found = await self.retriever.ainvoke(query, config={"callbacks": run_manager.get_child()}, **kwargs)
        return list(await self._for_call(k).acompress_documents(found, query))

    def _for_call(self, k: int | None) -> BGEReranker:
        if k is None:
            return self.reranker
        if not isinstance(k, int) or k < 1:
            raise InvalidInputError(f"k={k!r} must be a whole number of at least 1")
        return self.reranker.model_copy(update={"top_n": k})


def _pairs(query: str, documents: Sequence[Document]) -> list[tuple[str, str]]:
    return [(query, document.page_content) for document in documents]
