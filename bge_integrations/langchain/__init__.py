"""LangChain adapters: `BGEEmbeddings`, `BGEVisualEmbeddings` for images, `BGEReranker`, bge-m3's three-way
`BGEM3Retriever` and `BGEM3VectorStore`.

`BGELongContextChat` answers from long documents; it is imported on first use.

For sparse vectors in other stores, use `BGESparseEmbeddings` (Qdrant) or `BGEMilvusSparseEmbeddings` (Milvus). They are
imported on first use, because they need langchain-qdrant or langchain-milvus.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bge_integrations.optional import needed_by

with needed_by("bge_integrations.langchain", "langchain-core>=1.2.19"):
    import langchain_core  # noqa: F401

from bge_integrations.langchain.embeddings import BGEEmbeddings
from bge_integrations.langchain.m3_retriever import BGEM3Retriever
from bge_integrations.langchain.m3_vector_store import BGEM3VectorStore
from bge_integrations.langchain.reranker import BGEReranker, RerankedRetriever
from bge_integrations.langchain.visual_embeddings import BGEVisualEmbeddings

if TYPE_CHECKING:
    from bge_integrations.langchain.long_context_chat import BGELongContextChat as BGELongContextChat
    from bge_integrations.langchain.milvus import BGEMilvusSparseEmbeddings as BGEMilvusSparseEmbeddings
    from bge_integrations.langchain.qdrant import BGESparseEmbeddings as BGESparseEmbeddings

_LAZY_MODULES = {
    "BGELongContextChat": "bge_integrations.langchain.long_context_chat",
    "BGESparseEmbeddings": "bge_integrations.langchain.qdrant",
    "BGEMilvusSparseEmbeddings": "bge_integrations.langchain.milvus",
}

# without the sparse adapters, so that `import *` works without their packages
__all__ = [
    "BGEEmbeddings",
    "BGEM3Retriever",
    "BGEM3VectorStore",
    "BGEReranker",
    "BGEVisualEmbeddings",
    "RerankedRetriever",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY_MODULES])
