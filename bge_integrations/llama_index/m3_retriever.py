"""A LlamaIndex retriever over an M3Index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.filters import parse
from bge_integrations.index.search_arguments import Search
from bge_integrations.llama_index.filters import to_filter
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.vector_stores.types import MetadataFilters

    from bge_integrations.index import Hit, M3Index, StoredDocument
    from bge_integrations.index.search_arguments import Fusion
    from bge_integrations.scoring import Mode, Weights

#: LlamaIndex's metadata key for the id of a node's document.
REF_DOC = "ref_doc_id"


class SearchableIndex(Protocol):
    """The part of a `BGEM3Index` that a retriever uses."""

    weights: Weights | None

    @property
    def m3_index(self) -> M3Index: ...


class NodeWithScores(NodeWithScore):
    """A node with its score and the individual scores that it combines."""

    scores: dict[str, float]
    """By name: "dense", "sparse", "multi_vector". Only those that were computed."""


class BGEM3Retriever(BaseRetriever):
    """A retriever that ranks nodes of a `BGEM3Index` by bge-m3's dense, sparse and multi-vector scores.

    It searches for the query's text. If a query transform such as HyDE produces several texts, they are joined. A
    vector in the query is ignored, because LlamaIndex's other retrievers store their own models' vectors there. To
    search by a vector, use `index.m3_index.search_by_vector`.

    Results are `NodeWithScores`, whose `.scores` contains the individual scores.

    Args:
        index: The `BGEM3Index` to search.
        similarity_top_k: Number of nodes to return.
        mode: "hybrid", or "dense", "sparse" or "multi_vector" alone. None takes the index's default.
        weights: Weights of the dense, sparse and multi-vector scores; defaults to the index's weights.
        fusion: "weighted" for the weighted mean of the scores, "rrf" for reciprocal rank fusion.
        filters: Metadata filters with any operators except text matches, or a filter of `M3Index`.
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


def is_node(stored: StoredDocument) -> bool:
    """Return whether LlamaIndex stored this document, rather than another user of the same index."""
    return "_node_content" in stored.metadata


def to_node(stored: StoredDocument) -> BaseNode:
    if not is_node(stored):
        return TextNode(id_=stored.id, text=stored.text, metadata=stored.metadata)
    node: BaseNode = metadata_dict_to_node(stored.metadata)
    return node


def _scored(hit: Hit) -> NodeWithScores:
    # the scores stay out of the metadata, because LlamaIndex's fusion identifies nodes by a hash of it
    return NodeWithScores(node=to_node(hit), score=hit.score, scores=hit.scores)


def _query(query_bundle: QueryBundle) -> str:
    texts = query_bundle.embedding_strs
    if not texts:
        raise InvalidInputError(
            "the query has no text",
            advice="pass one, or search by a vector with index.m3_index.search_by_vector(vector)",
        )
    return "\n".join(texts)


def _all_of(conditions: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    parts = [condition for condition in conditions if condition is not None]
    return {"$and": parts} if parts else None


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
