"""infinity_emb's engine with torch and without its server; it has a queue and batches of 32."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from infinity_emb import EngineArgs, SyncEngineArray  # type: ignore[import-not-found, unused-ignore]
from numpy.typing import NDArray


def _engine(folder: str) -> Any:
    settings = EngineArgs(
        model_name_or_path=folder,
        engine="torch",
        device="cpu",
        dtype="float32",
        served_model_name="model",
        model_warmup=False,  # it would encode 512-token texts for minutes
    )
    return SyncEngineArray.from_args([settings])


class Embedder:
    def __init__(self, folder: str) -> None:
        self._engine = _engine(folder)

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        vectors, _ = self._engine.embed(model="model", sentences=texts).result()
        return np.asarray(vectors)

    def query(self, text: str) -> NDArray[np.float32]:
        return np.asarray(self.passages([text])[0])

    async def aquery(self, text: str) -> NDArray[np.float32]:
        vectors, _ = await asyncio.wrap_future(self._engine.embed(model="model", sentences=[text]))
        return np.asarray(vectors[0])


class Reranker:
    def __init__(self, folder: str) -> None:
        self._engine = _engine(folder)

    def scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        """Score pairs with a common query, the only kind that its interface supports."""
        passages = [passage for _, passage in pairs]
        ranked, _ = self._engine.rerank(model="model", query=pairs[0][0], docs=passages).result()
        scores = np.zeros(len(pairs), np.float32)
        for rank in ranked:
            scores[rank.index] = rank.relevance_score
        return scores
