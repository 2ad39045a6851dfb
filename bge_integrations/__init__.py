"""BGE models for LangChain, LlamaIndex and Chroma on one shared inference core.

Importing this package loads neither torch nor a framework: the names below are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.loading import load_embedder, load_reranker
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.generation.generator import Generator
    from bge_integrations.generation.loading import load_generator
    from bge_integrations.outputs import Embeddings, MultiVectors, SparseVector, SparseVectors

__version__ = "0.1.0"

_HOME = {
    "Embedder": "bge_integrations.core.embedder",
    "load_embedder": "bge_integrations.core.loading",
    "Reranker": "bge_integrations.core.reranker",
    "load_reranker": "bge_integrations.core.loading",
    "Generator": "bge_integrations.generation.generator",
    "load_generator": "bge_integrations.generation.loading",
    "Embeddings": "bge_integrations.outputs",
    "MultiVectors": "bge_integrations.outputs",
    "SparseVector": "bge_integrations.outputs",
    "SparseVectors": "bge_integrations.outputs",
}

__all__ = [
    "Embedder",
    "Embeddings",
    "Generator",
    "MultiVectors",
    "Reranker",
    "SparseVector",
    "SparseVectors",
    "load_embedder",
    "load_generator",
    "load_reranker",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
