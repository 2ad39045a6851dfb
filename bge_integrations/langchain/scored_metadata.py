"""A document's metadata with the score that a reranker gave it."""

from __future__ import annotations

from typing import Any

SCORE = "relevance_score"


class ScoredMetadata(dict[str, Any]):
    """Metadata with a score, which does not count when documents with scores are compared.

    A score belongs to one query. The same document found by two queries is one document to LangChain's retrievers that
    join results, such as MultiQueryRetriever. Compared with a plain dict, this is a plain dict.
    """

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ScoredMetadata):
            return _without_score(self) == _without_score(other)
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _without_score(metadata: ScoredMetadata) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != SCORE}
