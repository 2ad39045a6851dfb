"""An M3Index as LangChain's vector store."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.langchain.embeddings import BGEEmbeddings
from bge_integrations.langchain.m3_documents import columns, found_document, open_index, storable, to_document
from bge_integrations.outputs import to_lists
from bge_integrations.validation import check_query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.index import Hit, StoredDocument
    from bge_integrations.index.filters import Filter
    from bge_integrations.index.search_arguments import Fusion
    from bge_integrations.scoring import Mode


class BGEM3VectorStore(VectorStore):
    """A vector store that searches by bge-m3's dense, sparse and multi-vector scores, combined or alone.

    Example:
        >>> from bge_integrations.langchain import BGEM3VectorStore
        >>> store = BGEM3VectorStore.from_texts(["Pandas eat bamboo.", "Rome lies on the Tiber."], path="pandas-index")
        >>> store.similarity_search_with_score("What do pandas eat?", k=1)
        >>> store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "filter": {"page": {"$lte": 10}}})

    A document whose id exists replaces the stored one, and is not encoded again if its text is unchanged. A missing id
    is derived from text and metadata. Each search also accepts `mode`, `weights`, `fusion` and `candidates`. Results
    have their scores in the metadata, as those of `BGEM3Retriever`.

    Args:
        index: The index of the documents.
        mode: "dense", "sparse", "multi_vector" or "hybrid". None takes the index's default, as for all of these.
        weights: Weights of the dense, sparse and multi-vector scores in "hybrid".
        fusion: "weighted", "min_max", "z_score" or "rrf".
        candidates: Number of candidates from dense and from sparse search.
    """

    def __init__(
        self,
        index: M3Index,
        *,
        mode: Mode | None = None,
        weights: tuple[float, float, float] | None = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> None:
        if not isinstance(index, M3Index):
            raise InvalidInputError(
                f"index is {type(index).__name__}, not an M3Index",
                argument="index",
                advice="pass an M3Index, or create the store with from_texts or load",
            )
        self.index = index
        self._search_settings = {"mode": mode, "weights": weights, "fusion": fusion, "candidates": candidates}

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Open the index at a path or a server's URL, and return a store. `settings` are as in `from_texts`.

        Raises:
            IndexNotFoundError: The index does not exist.
        """
        return cls.from_texts([], path=path, **{**settings, "create": False})

    def close(self) -> None:
        """Close the index, so that it can be opened elsewhere."""
        self.index.close()

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str] | None = None,
        path: str | os.PathLike[str] | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Create a store or open an existing one, and add texts to it.

        Args:
            texts, metadatas, ids: The documents.
            embedding: A `BGEEmbeddings` whose model and settings the index uses; or pass `model=`. Other embeddings are
                rejected, because the index encodes all three representations itself.
            path: A folder, or the URL of a Qdrant server. None uses a temporary folder.
            show_progress: Show a progress bar.
            settings: Arguments of this class and keywords of `M3Index.open`: model, device, multi_vectors, …

        Raises:
            InvalidInputError: A text or its metadata is invalid, or `embedding` is not a `BGEEmbeddings`.
        """
        index, arguments = open_index(path, {**_settings_of(embedding), **settings}, inspect.signature(cls).parameters)
        try:
            store = cls(index, **arguments)
            index.add(texts, ids, storable(metadatas), show_progress=show_progress)
        except BaseException:
            index.close()
            raise
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str] | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_texts`; does not block the event loop."""
        return await asyncio.to_thread(cls.from_texts, texts, embedding, metadatas, ids=ids, **settings)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], embedding: Embeddings | None = None, **settings: Any
    ) -> Self:
        """Like `from_texts`, for documents."""
        if settings.get("ids") is None:
            settings.pop("ids", None)
        return cls.from_texts(embedding=embedding, **{**columns(documents), **settings})

    @classmethod
    async def afrom_documents(
        cls, documents: Iterable[Document], embedding: Embeddings | None = None, **settings: Any
    ) -> Self:
        """Async version of `from_documents`; does not block the event loop."""
        return await asyncio.to_thread(cls.from_documents, documents, embedding, **settings)

    @property
    def model_name(self) -> str:
        """The model of the index."""
        return self.index.embedder.name

    @property
    def embeddings(self) -> Embeddings:
        """The dense embeddings of the index's model."""
        return _DenseEmbeddings(self.index.embedder)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> list[str]:
        """Add texts, and return their ids once all are on disk.

        Args:
            texts, ids, metadatas: The texts, with one id and one metadata dict each.
            batch_size: Ignored. LangChain's `index()` passes it to every store; this store forms its own batches.
            settings: show_progress and on_truncate, as in `M3Index.add`.
        """
        return self.index.add(texts, ids, storable(metadatas), **settings)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> list[str]:
        """Async version of `add_texts`; does not block the event loop."""
        return await self.index.aadd(texts, ids, storable(metadatas), **settings)

    def delete(self, ids: list[str] | None = None, *, filter: Filter | None = None, **settings: Any) -> bool:
        """Delete documents by ids or by a filter. Return True, even if some do not exist.

        Raises:
            InvalidInputError: Neither or both are given. Omitting both does not delete everything.
        """
        self.index.delete(ids, filter, **settings)
        return True

    async def adelete(self, ids: list[str] | None = None, *, filter: Filter | None = None, **settings: Any) -> bool:
        """Async version of `delete`; does not block the event loop."""
        await self.index.adelete(ids, filter, **settings)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in the same order. Unknown ids are skipped."""
        return _documents(self.index.get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Async version of `get_by_ids`; does not block the event loop."""
        return _documents(await self.index.aget(ids))

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **settings: Any
    ) -> list[Document]:
        """Return the k best documents. `filter` is a metadata filter."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **settings)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **settings: Any
    ) -> list[Document]:
        """Async version of `similarity_search`; does not block the event loop."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, filter, **settings)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **settings: Any
    ) -> list[tuple[Document, float]]:
        """Return the k best documents and their scores; higher is better."""
        hits = self.index.search(query, k, filter=filter, **{**self._search_settings, **settings})
        return [(found_document(hit), hit.score) for hit in hits]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **settings: Any
    ) -> list[tuple[Document, float]]:
        """Async version of `similarity_search_with_score`; does not block the event loop."""
        hits = await self.index.asearch(query, k, filter=filter, **{**self._search_settings, **settings})
        return [(found_document(hit), hit.score) for hit in hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **settings: Any
    ) -> list[Document]:
        """Return the k best documents for a dense query vector."""
        hits = self.index.search_by_vector(embedding, k, filter=filter, **settings)
        return [found_document(hit) for hit in hits]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **settings: Any
    ) -> list[Document]:
        """Async version of `similarity_search_by_vector`; does not block the event loop."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, filter, **settings)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **settings: Any,
    ) -> list[Document]:
        """Return k of the `fetch_k` best documents, balancing similarity to the query and diversity by dense vectors.

        Args:
            lambda_mult: 1 considers only similarity to the query, 0 only diversity.
        """
        hits = self.index.search(query, fetch_k, filter=filter, **{**self._search_settings, **settings})
        dense = self.index.embedder.encode(check_query(query), kind="query").dense
        assert dense is not None
        return self._diverse(dense[0], hits, k, lambda_mult)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **settings: Any,
    ) -> list[Document]:
        """Async version of `max_marginal_relevance_search`; does not block the event loop."""
        hits = await self.index.asearch(query, fetch_k, filter=filter, **{**self._search_settings, **settings})
        dense = (await self.index.embedder.aencode(check_query(query), kind="query")).dense
        assert dense is not None
        return await asyncio.to_thread(self._diverse, dense[0], hits, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **settings: Any,
    ) -> list[Document]:
        """Like `max_marginal_relevance_search`, for a dense query vector and with dense scores."""
        hits = self.index.search_by_vector(embedding, fetch_k, filter=filter, **settings)
        return self._diverse(np.asarray(embedding, np.float32), hits, k, lambda_mult)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **settings: Any,
    ) -> list[Document]:
        """Async version of `max_marginal_relevance_search_by_vector`; does not block the event loop."""
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, embedding, k, fetch_k, lambda_mult, filter, **settings
        )

    def _diverse(self, query: NDArray[np.float32], hits: list[Hit], k: int, lambda_mult: float) -> list[Document]:
        vectors = self.index.dense_vectors(hit.id for hit in hits)
        hits = [hit for hit in hits if hit.id in vectors]  # some may have been deleted in the meantime
        rows: list[Any] = [vectors[hit.id] for hit in hits]
        chosen = maximal_marginal_relevance(query, rows, lambda_mult, k) if rows else []
        return [found_document(hits[i]) for i in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return a function that clips scores to [0, 1]. They are rarely below 0 or above 1 with bge-m3.

        "rrf" scores depend only on ranks and are below 0.05; "z_score" ones are negative for about half of the
        candidates.
        """
        return lambda score: min(1.0, max(0.0, score))


class _DenseEmbeddings(Embeddings):
    """LangChain's interface to the dense vectors of an index's embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        dense = self._embedder.encode(texts, kind="passage").dense
        assert dense is not None
        return to_lists(dense)

    def embed_query(self, text: str) -> list[float]:
        dense = self._embedder.encode(check_query(text), kind="query").dense
        assert dense is not None
        return to_lists(dense)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        dense = (await self._embedder.aencode(texts, kind="passage")).dense
        assert dense is not None
        return await asyncio.to_thread(to_lists, dense)

    async def aembed_query(self, text: str) -> list[float]:
        dense = (await self._embedder.aencode(check_query(text), kind="query")).dense
        assert dense is not None
        return to_lists(dense)[0]


def _settings_of(embedding: Embeddings | None) -> dict[str, Any]:
    if embedding is None:
        return {}
    if not isinstance(embedding, BGEEmbeddings):
        raise InvalidInputError(
            f"embedding is {type(embedding).__name__}, but this store encodes texts itself with bge-m3",
            argument="embedding",
            advice="pass model= instead, or BGEEmbeddings(model='BAAI/bge-m3')",
        )
    names = {"model", "device", "dtype", "max_length", "cache_folder", "local_files_only", "revision"}
    unsupported = embedding.model_fields_set - names - {"show_progress"}
    if unsupported:
        raise InvalidInputError(
            f"embedding sets {', '.join(sorted(unsupported))}, which this store does not support",
            argument="embedding",
            advice="leave them out",
        )
    return embedding.model_dump(include=names & embedding.model_fields_set | {"model"})


def _documents(stored: Iterable[StoredDocument]) -> list[Document]:
    return [to_document(document) for document in stored]
