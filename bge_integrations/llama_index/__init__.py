"""LlamaIndex adapters: `BGEEmbedding`, `BGESparseEmbedding`, `BGERerank`, `BGEM3Index` and `BGEM3Retriever`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    raise ImportError("bge_integrations.llama_index needs LlamaIndex: pip install 'llama-index-core>=0.14'") from error

from bge_integrations.llama_index.embedding import BGEEmbedding
from bge_integrations.llama_index.reranker import BGERerank
from bge_integrations.llama_index.sparse_embedding import BGESparseEmbedding

if TYPE_CHECKING:
    from bge_integrations.llama_index.m3_index import BGEM3Index, BGEM3Retriever

_HOME = {
    "BGEM3Index": "bge_integrations.llama_index.m3_index",
    "BGEM3Retriever": "bge_integrations.llama_index.m3_index",
}

__all__ = ["BGEEmbedding", "BGEM3Index", "BGEM3Retriever", "BGERerank", "BGESparseEmbedding"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
