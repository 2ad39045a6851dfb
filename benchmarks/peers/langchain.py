"""langchain-huggingface's adapter for sentence-transformers; its async method runs in a thread pool."""

from __future__ import annotations

import numpy as np
from langchain_huggingface import HuggingFaceEmbeddings
from numpy.typing import NDArray


class Embedder:
    def __init__(self, folder: str) -> None:
        self._model = HuggingFaceEmbeddings(
            model=folder, model_kwargs={"device": "cpu"}, encode_kwargs={"normalize_embeddings": True}
        )

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        return np.array(self._model.embed_documents(texts), np.float32)

    def query(self, text: str) -> NDArray[np.float32]:
        return np.array(self._model.embed_query(text), np.float32)

    async def aquery(self, text: str) -> NDArray[np.float32]:
        return np.array(await self._model.aembed_query(text), np.float32)
