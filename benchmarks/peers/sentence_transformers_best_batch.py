"""sentence-transformers with the batch size that is fastest on the texts of the first call."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer

_SIZES = (1, 2, 4, 8)


class Embedder:
    def __init__(self, folder: str) -> None:
        self._model = SentenceTransformer(folder, device="cpu")
        self._batch_size = 0

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        def encode(batch_size: int) -> NDArray[np.float32]:
            return np.asarray(self._model.encode(texts, batch_size=batch_size, normalize_embeddings=True))

        self._batch_size = self._batch_size or _fastest(encode)
        return encode(self._batch_size)


class Reranker:
    def __init__(self, folder: str) -> None:
        self._model = CrossEncoder(folder, device="cpu", max_length=512)
        self._batch_size = 0

    def scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        def predict(batch_size: int) -> NDArray[np.float32]:
            return np.asarray(self._model.predict(pairs, batch_size=batch_size))

        self._batch_size = self._batch_size or _fastest(predict)
        return predict(self._batch_size)


def _fastest(work: Callable[[int], object]) -> int:
    """Return the batch size with the shortest time, the better of two runs each."""

    def spent(batch_size: int) -> float:
        start = time.perf_counter()
        work(batch_size)
        return time.perf_counter() - start

    return min(_SIZES, key=lambda size: min(spent(size) for _ in range(2)))
