"""LlamaIndex adapters: embedding models, a reranker, and bge-m3's three-way index, retriever and vector store."""

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

__all__ = [
    "BGEEmbedding",
    "BGEM3Index",
    "BGEM3Retriever",
    "BGEM3VectorStore",
    "BGERerank",
    "BGESparseEmbedding",
    "BGEVisualEmbedding",
]
