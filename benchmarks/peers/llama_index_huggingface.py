"""llama-index-embeddings-huggingface's adapter for sentence-transformers, with batches of 10."""

from __future__ import annotations

import numpy as np
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from numpy.typing import NDArray


class Embedder:
    def __init__(self, folder: str) -> None:
        self._model = HuggingFaceEmbedding(folder, device="cpu")

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        return np.array(self._model.get_text_embedding_batch(texts), np.float32)

    def query(self, text: str) -> NDArray[np.float32]:
        return np.array(self._model.get_query_embedding(text), np.float32)

    async def aquery(self, text: str) -> NDArray[np.float32]:
        return np.array(await self._model.aget_query_embedding(text), np.float32)
