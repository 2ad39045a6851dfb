"""Retrieves a LlamaIndex' nodes from an M3Index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.filters import parse
from bge_integrations.index.search import Search
from bge_integrations.llama_index.filters import to_filter
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.vector_stores.types import MetadataFilters

    from bge_integrations.index import Entry, Hit, M3Index
    from bge_integrations.index.search import Fusion
    from bge_integrations.scoring import Mode, Weights

#: The key under which an entry's metadata has the id of its document, by LlamaIndex' own convention.
REF_DOC = "ref_doc_id"


class Searched(Protocol):
    """What a retriever needs of a `BGEM3Index`."""

    weights: Weights

    @property
    def m3_index(self) -> M3Index: ...


class NodeWithScores(NodeWithScore):
    """A node with its score and the parts of it."""

    scores: dict[str, float]
    """Those that were computed, by name: "dense", "sparse", "multi_vector"."""


class BGEM3Retriever(BaseRetriever):
    """Finds nodes of a `BGEM3Index` by bge-m3's dense, sparse and multi-vector scores.

    What is searched for is the query's text; the texts of a query transform such as HyDE are searched for as one. A
    vector in the query is passed over: LlamaIndex' other retrievers leave there what their own models made. To search
    by a vector of yours, use `index.m3_index.search_by_vector`.

    Results are `NodeWithScores`: `.scores` has the parts of the score.

    Args:
        index: What to search, a `BGEM3Index`.
        similarity_top_k: How many nodes to find.
        mode: "hybrid", or "dense", "sparse", "multi_vector" alone.
        weights: Of the dense, sparse and multi-vector scores; None takes the index'.
        fusion: "weighted" for the weighted mean of the scores, "rrf" for reciprocal ranks.
        filters: Conditions on the metadata, all operators but the text matches; or a filter of `M3Index`.
        doc_ids: Only nodes of these documents.
        candidates: How many nodes each representation puts forward to be scored by all.
        callback_manager, object_map, verbose: As LlamaIndex has them.

    Raises:
        InvalidInputError: An argument can't be used.
    """

    def __init__(
        self,
        index: Searched,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        mode: Mode = "hybrid",
        weights: Weights | None = None,
        fusion: Fusion = "weighted",
        filters: MetadataFilters | dict[str, Any] | None = None,
        doc_ids: list[str] | None = None,
        candidates: int = 200,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self._m3_index = index.m3_index
        self.similarity_top_k = check_whole_number(similarity_top_k, "similarity_top_k")
        conditions = [] if filters is None else [to_filter(filters)]
        if doc_ids is not None:
            conditions.append({REF_DOC: {"$in": doc_ids}})
        self._settings: dict[str, Any] = {
            "mode": mode,
            "weights": index.weights if weights is None else weights,
            "fusion": fusion,
            "filter": _all_of(conditions),
            "candidates": candidates,
        }
        check_search(**self._settings)
        super().__init__(callback_manager=callback_manager, object_map=object_map, verbose=verbose)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._m3_index.search(_query(query_bundle), self.similarity_top_k, **self._settings)
        return [_scored(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = await self._m3_index.asearch(_query(query_bundle), self.similarity_top_k, **self._settings)
        return [_scored(hit) for hit in hits]


def is_node(entry: Entry) -> bool:
    """Whether LlamaIndex wrote it, and not something else that uses the same index."""
    return "_node_content" in entry.metadata


def to_node(entry: Entry) -> BaseNode:
    if not is_node(entry):
        return TextNode(id_=entry.id, text=entry.text, metadata=entry.metadata)
    node: BaseNode = metadata_dict_to_node(entry.metadata)
    return node


def _scored(hit: Hit) -> NodeWithScores:
    # not in the node's metadata: LlamaIndex' fusion tells nodes apart by a hash of that
    return NodeWithScores(node=to_node(hit), score=hit.score, scores=hit.scores)


def _query(query_bundle: QueryBundle) -> str:
    texts = query_bundle.embedding_strs
    if not texts:
        raise InvalidInputError(
            "the query has no text; pass one, or search by a vector with index.m3_index.search_by_vector(vector)"
        )
    return "\n".join(texts)


def _all_of(conditions: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    parts = [condition for condition in conditions if condition is not None]
    return {"$and": parts} if parts else None


def check_search(
    weights: Weights,
    mode: Mode = "hybrid",
    fusion: Fusion = "weighted",
    filter: dict[str, Any] | None = None,
    candidates: int = 1,
) -> None:
    """Let mistakes fail where they are made, and not at the first query."""
    Search.of(1, mode, weights, fusion, None if filter is None else parse(filter), candidates)
