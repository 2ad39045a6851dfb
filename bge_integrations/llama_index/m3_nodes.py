"""LlamaIndex's nodes as an M3Index stores and finds them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode, Node, NodeWithScore, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from bge_integrations.llama_index.scored_nodes import found_node

if TYPE_CHECKING:
    from bge_integrations.index import Hit, StoredDocument


class NodeWithScores(NodeWithScore):
    """A node with its score and the individual scores that it combines."""

    scores: dict[str, float]
    """By name: "dense", "sparse", "multi_vector". Only those that were computed."""


def is_node(stored: StoredDocument) -> bool:
    """Return whether LlamaIndex stored this document, rather than another user of the same index."""
    return "_node_content" in stored.metadata


def to_node(stored: StoredDocument) -> BaseNode:
    if not is_node(stored):
        return TextNode(id_=stored.id, text=stored.text, metadata=stored.metadata)
    node: BaseNode = metadata_dict_to_node(stored.metadata)
    return node


def nodes_with_scores(hits: Iterable[Hit]) -> list[NodeWithScores]:
    """Return search results with their scores, also in the metadata under the names in `scored_metadata`."""
    return [NodeWithScores(node=_found(hit), score=hit.score, scores=hit.scores) for hit in hits]


def _found(hit: Hit) -> BaseNode:
    node = to_node(hit)
    if type(node) is Node:  # its hash, by which LlamaIndex's fusion identifies nodes, would include the scores
        return node
    return found_node(node, hit.score, hit.scores)
