"""LangChain adapters: `BGEEmbeddings` and `BGEReranker`."""

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise ImportError(
        "bge_integrations.langchain needs LangChain: pip install 'bge-integrations[langchain]'"
    ) from error

from bge_integrations.langchain.embeddings import BGEEmbeddings
from bge_integrations.langchain.reranker import BGEReranker, RerankedRetriever

__all__ = ["BGEEmbeddings", "BGEReranker", "RerankedRetriever"]
