"""A complete adapter for an imaginary framework, built with adapter_kit in at most 80 lines.

The framework requests dense and sparse vectors from separate objects, needs async methods and picklable components,
represents documents as dicts, and takes settings as keyword arguments.
"""

from __future__ import annotations

from typing import Any

from bge_integrations import load_reranker
from bge_integrations.adapter_kit import LazyModel, load_dense, load_sparse
from bge_integrations.adapter_kit.settings import checked_settings
from bge_integrations.core.loading import load_embedder
from bge_integrations.outputs import to_lists
from bge_integrations.scoring import select_best


class ToyEmbedder:
    """Dense vectors for the framework's stores."""

    def __init__(self, model: str = "BAAI/bge-base-en-v1.5", **settings: Any) -> None:
        self.settings = {"model": model, **checked_settings(load_embedder, settings)}
        self._model = LazyModel(load_dense)
        self._model.get(self.settings)  # raises here if the model or a setting is unknown

    def embed(self, documents: list[dict[str, Any]]) -> list[list[float]]:
        return to_lists(self._model.get(self.settings).encode(map(text_of, documents), "passage"))

    def ask(self, question: str) -> list[float]:
        return to_lists(self._model.get(self.settings).encode([question], "query"))[0]

    async def aembed(self, documents: list[dict[str, Any]]) -> list[list[float]]:
        dense = await self._model.aget(self.settings)
        return to_lists(await dense.aencode(map(text_of, documents), "passage"))


class ToySparseEmbedder:
    """Lexical weights for the framework's hybrid stores; it shares a forward pass with `ToyEmbedder`."""

    def __init__(self, model: str = "BAAI/bge-m3", **settings: Any) -> None:
        self.settings = {"model": model, **checked_settings(load_embedder, settings)}
        self._model = LazyModel(load_sparse)
        self._model.get(self.settings)

    def embed(self, documents: list[dict[str, Any]]) -> list[dict[int, float]]:
        return self._model.get(self.settings).encode(map(text_of, documents), "passage").to_dicts()

    def ask(self, question: str) -> dict[int, float]:
        return self._model.get(self.settings).encode([question], "query")[0].to_dict()


class ToyReranker:
    """Orders the framework's documents, best first."""

    def __init__(self, model: str = "BAAI/bge-reranker-v2-m3", top_n: int = 3, **settings: Any) -> None:
        self.settings = {"model": model, **checked_settings(load_reranker, settings)}
        self.top_n = top_n
        self._model = LazyModel(load_reranker)
        self._model.get(self.settings)

    def rank(self, question: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        scores = self._model.get(self.settings).score(pairs(question, documents)).tolist()
        return [{**documents[i], "score": scores[i]} for i in select_best(scores, self.top_n)]

    async def arank(self, question: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        reranker = await self._model.aget(self.settings)
        scores = (await reranker.ascore(pairs(question, documents))).tolist()
        return [{**documents[i], "score": scores[i]} for i in select_best(scores, self.top_n)]


def text_of(document: dict[str, Any]) -> str:
    return document["text"]


def pairs(question: str, documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(question, text_of(document)) for document in documents]
