"""BGE rerankers as LlamaIndex's `BaseNodePostprocessor`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import AliasChoices

from bge_integrations.adapter_kit import LazyModel, arguments_of
from bge_integrations.adapter_kit.settings import ModelName, ModelNameAlias, RerankerSettings, SelectionSettings, TopN
from bge_integrations.core.loading import load_reranker
from bge_integrations.core.reranker import Reranker
from bge_integrations.errors import InvalidInputError
from bge_integrations.llama_index.component import Component
from bge_integrations.llama_index.scored_nodes import reranked_node, without_scores
from bge_integrations.scoring import select_best

_dispatcher = get_dispatcher(__name__)


class BGERerank(ModelNameAlias, Component, RerankerSettings, SelectionSettings, BaseNodePostprocessor):
    """A node postprocessor that reranks nodes with a BGE reranker, best first.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from bge_integrations.llama_index import BGERerank
        >>> reranker = BGERerank(top_n=1)  # or index.as_query_engine(node_postprocessors=[reranker])
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("Pandas eat bamboo.", "Rome is in Italy.")]
        >>> reranker.postprocess_nodes(nodes, query_str="What do pandas eat?")

    The input nodes are never modified: the results are new `NodeWithScore`s. If a node has scores in its metadata, as
    those of a `BGEM3Retriever` do, its copy has the new `relevance_score`, and the old one as `retrieval_score`. The
    model is loaded when the object is created; copies, pickles and `to_dict` contain the settings, never the weights.
    """

    model: ModelName = Field(
        default="BAAI/bge-reranker-v2-m3", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id, checkpoint folder, the URL of a server, or "pocket". `model_name=` works too."""
    top_n: TopN = 2
    """Number of nodes to keep; None keeps all."""
    keep_retrieval_score: bool = False
    """Keep each node's original score in `metadata["retrieval_score"]`, excluded from the text that models read."""
    metadata_mode: MetadataMode = MetadataMode.EMBED
    """Which metadata the reranker reads together with a node's text."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        populate_by_name=True,
        validate_assignment=True,
    )

    _arguments = arguments_of(RerankerSettings, model="model")
    _model: LazyModel[Reranker] = PrivateAttr(default_factory=lambda: LazyModel(load_reranker))

    @classmethod
    def class_name(cls) -> str:
        return "BGERerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._events(query, nodes) as ranked:
            scores = self._loaded().score(self._pairs(query, nodes), normalize=self.normalize)
            ranked += self._ranked(nodes, scores.tolist())
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._events(query, nodes) as ranked:
            reranker = await self._aloaded()
            pairs = await asyncio.to_thread(self._pairs, query, nodes)
            scores = await reranker.ascore(pairs, normalize=self.normalize)
            ranked += self._ranked(nodes, scores.tolist())
        return ranked

    def _pairs(self, query: str, nodes: list[NodeWithScore]) -> list[tuple[str, str]]:
        return [(query, _text(scored.node, self.metadata_mode)) for scored in nodes]

    def _ranked(self, nodes: list[NodeWithScore], scores: list[float]) -> list[NodeWithScore]:
        """Return the best nodes, best first, as new objects."""
        chosen = [(nodes[i], scores[i]) for i in select_best(scores, self.top_n, self.score_threshold)]
        return [
            NodeWithScore(
                node=reranked_node(scored.node, score, scored.score if self.keep_retrieval_score else None), score=score
            )
            for scored, score in chosen
        ]

    @contextmanager
    def _events(self, query: str, nodes: list[NodeWithScore]) -> Iterator[list[NodeWithScore]]:
        """Yield a list for the results, and report start and end to LlamaIndex's instrumentation and callbacks."""
        ranked: list[NodeWithScore] = []
        top_n = len(nodes) if self.top_n is None else self.top_n
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=self.model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield ranked
            event.on_end(payload={EventPayload.NODES: ranked})
        _dispatcher.event(ReRankEndEvent(nodes=ranked))


def _query(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise InvalidInputError("reranking needs a query", advice="pass query_str= or query_bundle=")
    return query_bundle.query_str


def _text(node: BaseNode, mode: MetadataMode) -> str:
    """Return the text that the model reads, without scores in the metadata."""
    return without_scores(node).get_content(metadata_mode=mode)
