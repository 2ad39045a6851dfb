"""Which reranker goes with which embedding model."""

from __future__ import annotations

from bge_integrations import catalog

#: Rerankers by the languages of the embedding model, and by whether its vectors have more than 768 dimensions.
_RERANKERS = {
    ("en", False): "BAAI/bge-reranker-base",
    ("en", True): "BAAI/bge-reranker-large",
    ("zh", False): "BAAI/bge-reranker-base",
    ("zh", True): "BAAI/bge-reranker-large",
    ("multilingual", False): "BAAI/bge-reranker-v2-m3",
    ("multilingual", True): "BAAI/bge-reranker-v2-m3",
}


def reranker_for(model: str) -> str | None:
    """Return the reranker that goes with an embedding model: a hub id, or None.

    There is none for "pocket", because its own reranker makes rankings worse, and none for models that the catalogue
    does not know.

    Args:
        model: `Embedder.name`.
    """
    row = catalog.find(model)
    return _RERANKERS[row.languages, (row.dimension or 0) > 768] if row else None
