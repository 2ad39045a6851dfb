"""A result's metadata with its scores, under the same names in every framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The score that results are sorted by.
SCORE = "relevance_score"
#: The score before reranking.
RETRIEVAL_SCORE = "retrieval_score"
#: The individual scores that a score combines, by representation.
PARTS = {name: f"{name}_score" for name in ("dense", "sparse", "multi_vector")}
#: All keys that results have and that are never stored.
SCORES = frozenset({SCORE, RETRIEVAL_SCORE, *PARTS.values()})


class ScoredMetadata(dict[str, Any]):
    """Metadata with scores, which do not count when documents with scores are compared.

    A score belongs to one query. The same document found by two queries is one document to the retrievers that join
    results. LangChain's compare documents; LlamaIndex's compare hashes of `str(metadata)`, which leaves the scores out.
    Compared with a plain dict, this is a plain dict.
    """

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ScoredMetadata):
            return without_scores(self) == without_scores(other)
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __str__(self) -> str:
        return str(without_scores(self))


class FoundMetadata(ScoredMetadata):
    """Metadata of what an index found. A plain dict that differs only in the scores is equal to it, because frameworks
    expect a document that is found to equal the document that was added."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and without_scores(self) == without_scores(other)

    __hash__ = None


def found_metadata(metadata: Mapping[str, Any], score: float, parts: Mapping[str, float]) -> FoundMetadata:
    """Return the metadata of a search result. `parts` are scores by the name of their representation."""
    return FoundMetadata({**metadata, SCORE: score, **{PARTS[name]: part for name, part in parts.items()}})


def reranked_metadata(metadata: Mapping[str, Any], score: float) -> ScoredMetadata:
    """Return metadata with a reranker's score. The score that an index gave is kept as the retrieval score."""
    reranked = ScoredMetadata({**metadata, SCORE: score})
    if isinstance(metadata, ScoredMetadata) and SCORE in metadata:
        reranked.setdefault(RETRIEVAL_SCORE, metadata[SCORE])
    return reranked


def without_scores(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy without the keys of `SCORES`."""
    return {name: value for name, value in metadata.items() if name not in SCORES}
