"""Nodes with scores in their metadata, hidden from the models that read or embed a node's text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode

from bge_integrations.adapter_kit import scored_metadata
from bge_integrations.adapter_kit.scored_metadata import RETRIEVAL_SCORE, SCORE, SCORES, ScoredMetadata


def with_scores(node: BaseNode, metadata: ScoredMetadata) -> BaseNode:
    """Return a copy of the node with this metadata, whose scores neither LLMs nor embedding models see."""
    names = [name for name in metadata if name in SCORES]
    return node.model_copy(
        update={
            "metadata": metadata,
            "excluded_embed_metadata_keys": list(dict.fromkeys([*node.excluded_embed_metadata_keys, *names])),
            "excluded_llm_metadata_keys": list(dict.fromkeys([*node.excluded_llm_metadata_keys, *names])),
        }
    )


def scores_of(node: BaseNode) -> dict[str, Any]:
    """Return the scores that `with_scores` added. A user's own key is not excluded from the text."""
    excluded = node.excluded_embed_metadata_keys
    return {name: value for name, value in node.metadata.items() if name in SCORES and name in excluded}


def without_scores(node: BaseNode) -> BaseNode:
    """Return the node, or a copy without its scores if it has some."""
    names = scores_of(node).keys()
    if not names:
        return node
    return node.model_copy(
        update={
            "metadata": {name: value for name, value in node.metadata.items() if name not in names},
            "excluded_embed_metadata_keys": [k for k in node.excluded_embed_metadata_keys if k not in names],
            "excluded_llm_metadata_keys": [k for k in node.excluded_llm_metadata_keys if k not in names],
        }
    )


def found_node(node: BaseNode, score: float, parts: Mapping[str, float]) -> BaseNode:
    """Return a search result's node with its scores. `parts` are scores by the name of their representation."""
    return with_scores(node, scored_metadata.found_metadata(node.metadata, score, parts))


def reranked_node(node: BaseNode, score: float, retrieval_score: float | None) -> BaseNode:
    """Return a reranked node: the scores in its metadata are updated, and a retrieval score is added unless it is None.

    A retrieval score that an earlier reranking kept stays. A node without scores is returned unchanged.
    """
    kept = scores_of(node)
    changes: dict[str, Any] = {}
    if SCORE in kept:
        changes = {RETRIEVAL_SCORE: kept[SCORE], SCORE: score}
    if retrieval_score is not None:
        changes[RETRIEVAL_SCORE] = retrieval_score
    if RETRIEVAL_SCORE in kept:
        changes.pop(RETRIEVAL_SCORE, None)
    return with_scores(node, ScoredMetadata({**node.metadata, **changes})) if changes else node
