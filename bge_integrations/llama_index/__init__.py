"""LlamaIndex adapters: embedding models, a reranker, and bge-m3's three-way index, retriever and vector store.

`BGELongContextLLM` answers from long documents; it is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bge_integrations.optional import needed_by

with needed_by("bge_integrations.llama_index", "llama-index-core>=0.14"):
    import llama_index.core  # noqa: F401

from bge_integrations.llama_index.embedding import BGEEmbedding
from bge_integrations.llama_index.m3_index import BGEM3Index
from bge_integrations.llama_index.m3_retriever import BGEM3Retriever
from bge_integrations.llama_index.m3_vector_store import BGEM3VectorStore
from bge_integrations.llama_index.reranker import BGERerank
from bge_integrations.llama_index.sparse_embedding import BGESparseEmbedding
from bge_integrations.llama_index.visual_embedding import BGEVisualEmbedding

if TYPE_CHECKING:
    from bge_integrations.llama_index.long_context_llm import BGELongContextLLM as BGELongContextLLM

_LAZY_MODULES = {"BGELongContextLLM": "bge_integrations.llama_index.long_context_llm"}

__all__ = [
    "BGEEmbedding",
    "BGEM3Index",
    "BGEM3Retriever",
    "BGEM3VectorStore",
    "BGERerank",
    "BGESparseEmbedding",
    "BGEVisualEmbedding",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY_MODULES])
