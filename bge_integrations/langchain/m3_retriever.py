"""A LangChain retriever for bge-m3's three-way retrieval."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from bge_integrations.index import M3Index
from bge_integrations.index.search_arguments import Fusion
from bge_integrations.langchain.m3_documents import columns, found_document, open_index, storable
from bge_integrations.langchain.reranker import BGEReranker
from bge_integrations.scoring import Mode
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.retrievers import LangSmithRetrieverParams


class BGEM3Retriever(BaseRetriever):
    """A retriever that ranks documents by bge-m3's dense, sparse and multi-vector scores, combined or alone.

    Example:
        >>> from bge_integrations.langchain import BGEM3Retriever
        >>> retriever = BGEM3Retriever.from_texts(["Pandas eat bamboo.", "Rome lies on the Tiber."], k=1)
        >>> retriever.invoke("What do pandas eat?")

    With `path="folder"`, documents are stored on disk and not encoded again; with `path="https://…"`, they are stored
    on a Qdrant server. `invoke(query, k=3, filter={"year": 2020})` sets k, mode, weights or the filter for one call.

    Results have their score in `metadata["relevance_score"]`, and the individual scores that it combines in
    `dense_score`, `sparse_score` and `multi_vector_score`. Scores are never stored, even if results are added again.

    The index belongs to this process: copies of the retriever share it, and neither can be pickled.
    """

    index: M3Index = Field(frozen=True)
    """The index of the documents. `retriever.index.add(...)` adds more, `.close()` releases the folder."""
    k: int = Field(default=4, ge=1)
    """Number of documents to return."""
    mode: Mode | None = None
    """"dense", "sparse", "multi_vector", or "hybrid" for all three. None takes the index's default, as all of these."""
    weights: tuple[float, float, float] | None = None
    """Weights of the dense, sparse and multi-vector scores in "hybrid"."""
    fusion: Fusion | None = None
    """"weighted", the mean of the scores; "min_max" or "z_score", the mean of scaled scores; or "rrf", rank fusion."""
    filter: dict[str, Any] | None = None
    """A metadata filter: {"year": {"$gte": 2000}, "lang": {"$in": ["de", "en"]}}."""
    candidates: int | None = Field(default=None, ge=1)
    """Number of candidates from dense and from sparse search in "hybrid" and "multi_vector"."""
    reranker: BGEReranker | None = None
    """Reranks the documents, and its score replaces `metadata["relevance_score"]`; the best k are returned."""
    fetch_k: int = Field(default=20, ge=1)
    """Number of documents to rerank, at least k."""

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_assignment=True,
    )

    @classmethod
    def from_index(cls, index: M3Index, **settings: Any) -> Self:
        """Return a retriever for an open index. `settings` are the fields of this class."""
        return cls(index=index, **settings)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Open the index at a path or a server's URL, and return a retriever. `settings` are as in `from_documents`.

        Raises:
            IndexNotFoundError: The index does not exist.
        """
        return cls._create({"texts": []}, path, False, {**settings, "create": False})

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        path: str | os.PathLike[str] | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Add documents to an index, and return a retriever for it.

        Args:
            documents: The documents. A missing id is derived from text and metadata.
            path: A folder, or the URL of a Qdrant server. None uses a temporary folder.
            show_progress: Show a progress bar.
            settings: Fields of this class and keywords of `M3Index.open`: model, device, dtype, max_length, …

        Raises:
            InvalidInputError: A document is invalid, or the model has no sparse and multi-vector heads.
            WrongModelError, IndexLockedError, IndexFormatError: The folder or collection can't be used.
        """
        return cls._create(columns(documents), path, show_progress, settings)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        ids: Iterable[str] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Like `from_documents`, for texts with metadata and ids."""
        columns = {"texts": texts, "metadatas": storable(metadatas), "ids": ids}
        return cls._create(columns, path, show_progress, settings)

    @classmethod
    def _create(
        cls, columns: dict[str, Any], path: str | os.PathLike[str] | None, show_progress: bool, settings: dict[str, Any]
    ) -> Self:
        index, fields = open_index(path, settings, cls.model_fields)
        try:
            retriever = cls(index=index, **fields)
            index.add(**columns, show_progress=show_progress)
        except BaseException:
            index.close()
            raise
        return retriever

    @property
    def model_name(self) -> str:
        """The model of the index."""
        return self.index.embedder.name

    def close(self) -> None:
        """Close the index, so that it can be opened elsewhere."""
        self.index.close()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        mode: Mode | None = None,
        weights: tuple[float, float, float] | None = None,
        filter: dict[str, Any] | None = None,
    ) -> list[Document]:
        k = self.k if k is None else k
        hits = self.index.search(query, **self._arguments(k, mode, weights, filter))
        documents = [found_document(hit) for hit in hits]
        return self.reranker._rerank(documents, query, k) if self.reranker else documents

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        mode: Mode | None = None,
        weights: tuple[float, float, float] | None = None,
        filter: dict[str, Any] | None = None,
    ) -> list[Document]:
        k = self.k if k is None else k
        hits = await self.index.asearch(query, **self._arguments(k, mode, weights, filter))
        documents = [found_document(hit) for hit in hits]
        return await self.reranker._arerank(documents, query, k) if self.reranker else documents

    def _arguments(
        self,
        k: int,
        mode: Mode | None,
        weights: tuple[float, float, float] | None,
        filter: dict[str, Any] | None,
    ) -> dict[str, Any]:
        check_whole_number(k, "k")
        return {
            "k": max(k, self.fetch_k) if self.reranker else k,
            "mode": self.mode if mode is None else mode,
            "weights": self.weights if weights is None else weights,
            "filter": self.filter if filter is None else filter,
            "fusion": self.fusion,
            "candidates": self.candidates,
        }

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_embedding_provider"] = "bge_integrations"
        params["ls_embedding_model"] = self.model_name
        return params
