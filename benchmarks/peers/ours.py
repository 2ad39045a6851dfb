"""This package."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bge_integrations import load_embedder, load_reranker


class Embedder:
    def __init__(self, folder: str, **settings: Any) -> None:
        self._model = load_embedder(folder, device="cpu", **settings)

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        dense = self._model.encode(texts).dense
        assert dense is not None
        return dense

    def query(self, text: str) -> NDArray[np.float32]:
        return np.asarray(self.passages([text])[0])

    async def aquery(self, text: str) -> NDArray[np.float32]:
        dense = (await self._model.aencode([text])).dense
        assert dense is not None
        return np.asarray(dense[0])


class Reranker:
    def __init__(self, folder: str, **settings: Any) -> None:
        self._model = load_reranker(folder, device="cpu", **settings)

    def scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        return self._model.score(pairs, normalize=True)


class ThreeOutputs:
    def __init__(self, folder: str, **settings: Any) -> None:
        self._model = load_embedder(folder, device="cpu", **settings)

    def passages(self, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        encoded = self._model.encode(texts, sparse=True, multi_vector=True)
        assert encoded.dense is not None
        assert encoded.sparse is not None
        assert encoded.multi_vector is not None
        return encoded.dense, encoded.sparse.to_scipy().toarray(), encoded.multi_vector.vectors
