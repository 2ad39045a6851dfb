"""A LlamaIndex retriever over an M3Index."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import NodeWithScore, QueryBundle

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.filters import parse
from bge_integrations.index.search_arguments import Search
from bge_integrations.llama_index.filters import search_filter
from bge_integrations.llama_index.m3_nodes import nodes_with_scores
from bge_integrations.moved_arguments import advice_for
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.vector_stores.types import MetadataFilters

    from bge_integrations.index import M3Index
    from bge_integrations.index.search_arguments import Fusion
    from bge_integrations.scoring import Mode, Weights


class SearchableIndex(Protocol):
    """The part of a `BGEM3Index` that a retriever uses."""

    weights: Weights | None

    @property
    def m3_index(self) -> M3Index: ...


class BGEM3Retriever(BaseRetriever):
    """A retriever that ranks nodes of a `BGEM3Index` by bge-m3's dense, sparse and multi-vector scores.

    It searches for the query's text. If a query transform such as HyDE produces several texts, they are joined. A
    vector in the query is ignored, because LlamaIndex's other retrievers store their own models' vectors there. To
    search by a vector, use `index.m3_index.search_by_vector`.

    Results are `NodeWithScores`, whose `.scores` contains the individual scores. The metadata of their nodes has all
    scores, too: `relevance_score`, and `dense_score`, `sparse_score` and `multi_vector_score`. LLMs and embedding
    models do not see them, and they are never stored.

    Args:
        index: The `BGEM3Index` to search.
        similarity_top_k: Number of nodes to return.
        mode: "hybrid", or "dense", "sparse" or "multi_vector" alone. None takes the index's default.
        weights: Weights of the dense, sparse and multi-vector scores; defaults to the index's weights.
        fusion: "weighted" for the weighted mean of the scores, "min_max" or "z_score" to scale them first, "rrf" for
            reciprocal rank fusion.
        filters: Metadata filters, or a filter of `M3Index`. On a list in the metadata, comparisons and "in" hold if one
            of its elements meets them. Text matches are slower; see `bge_integrations.index.filters`.
        doc_ids: Search only nodes of these documents.
        candidates: Number of candidates from dense and from sparse search.
        callback_manager, object_map, verbose: As in LlamaIndex.

    Raises:
        InvalidInputError: An argument is invalid.
    """

    def __init__(
        self,
        index: SearchableIndex,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        mode: Mode | None = None,
        weights: Weights | None = None,
        fusion: Fusion | None = None,
        filters: MetadataFilters | dict[str, Any] | None = None,
        doc_ids: list[str] | None = None,
        candidates: int | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self._m3_index = index.m3_index
        self.similarity_top_k = check_whole_number(similarity_top_k, "similarity_top_k")
        self._settings: dict[str, Any] = {
            "mode": mode,
            "weights": index.weights if weights is None else weights,
            "fusion": fusion,
            "filter": search_filter(filters, doc_ids),
            "candidates": candidates,
        }
        check_search(**self._settings)
        super().__init__(callback_manager=callback_manager, object_map=object_map, verbose=verbose)

    @property
    def model_name(self) -> str:
        """The model of the index."""
        return self._m3_index.embedder.name

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._m3_index.search(_query(query_bundle), self.similarity_top_k, **self._settings)
        return list(nodes_with_scores(hits))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = await self._m3_index.asearch(_query(query_bundle), self.similarity_top_k, **self._settings)
        return list(nodes_with_scores(hits))


def _query(query_bundle: QueryBundle) -> str:
    texts = query_bundle.embedding_strs
    if not texts:
        raise InvalidInputError(
            "the query has no text",
            advice="pass one, or search by a vector with index.m3_index.search_by_vector(vector)",
        )
    return "\n".join(texts)


def check_search(
    weights: Weights | None,
    mode: Mode | None = None,
    fusion: Fusion | None = None,
    filter: dict[str, Any] | None = None,
    candidates: int | None = None,
) -> None:
    """Raise InvalidInputError for invalid arguments now rather than at the first query."""
    condition = None if filter is None else parse(filter)
    Search.of(1, condition, mode=mode, weights=weights, fusion=fusion, candidates=candidates)


def retriever_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the arguments of `as_retriever` that a retriever takes, rather than LlamaIndex's engines.

    Raises:
        InvalidInputError: An argument is unknown to both.
    """
    known = signature(BGEM3Retriever).parameters
    if unknown := sorted(arguments.keys() - known.keys() - _engine_arguments()):
        advice = advice_for(unknown[0], known) or f"use {', '.join(known)}"
        raise InvalidInputError(f"BGEM3Retriever has no argument {unknown[0]}", argument=unknown[0], advice=advice)
    return {name: value for name, value in arguments.items() if name in known}


def _engine_arguments() -> set[str]:
    """Return the arguments of LlamaIndex's engines, which `as_query_engine` and `as_chat_engine` pass on."""
    from llama_index.core import chat_engine, query_engine

    factories = (
        query_engine.RetrieverQueryEngine.from_args,
        chat_engine.CondenseQuestionChatEngine.from_defaults,
        chat_engine.ContextChatEngine.from_defaults,
        chat_engine.CondensePlusContextChatEngine.from_defaults,
        chat_engine.SimpleChatEngine.from_defaults,
    )
    return {name for factory in factories for name in signature(factory).parameters}
