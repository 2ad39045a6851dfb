"""sentence-transformers with its defaults: torch, batches of 32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer


class Embedder:
    def __init__(self, folder: str, **settings: Any) -> None:
        self._model = SentenceTransformer(folder, device="cpu", **settings)

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(self._model.encode(texts, normalize_embeddings=True))

    def query(self, text: str) -> NDArray[np.float32]:
        return np.asarray(self._model.encode(text, normalize_embeddings=True))


class Reranker:
    def __init__(self, folder: str, **settings: Any) -> None:
        self._model = CrossEncoder(folder, device="cpu", max_length=512, **settings)

    def scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        return np.asarray(self._model.predict(pairs))
