"""fastembed, with the ONNX files that sentence-transformers exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
from fastembed import TextEmbedding  # type: ignore[import-not-found, unused-ignore]
from fastembed.common.model_description import ModelSource, PoolingType  # type: ignore[import-not-found, unused-ignore]
from fastembed.rerank.cross_encoder import TextCrossEncoder  # type: ignore[import-not-found, unused-ignore]
from numpy.typing import NDArray


def _onnx(folder: str, kind: Literal["SentenceTransformer", "CrossEncoder"]) -> Path:
    target = Path(f"{folder}-onnx")
    if not target.exists():  # imported only here, because importing sentence-transformers would count as start-up
        import sentence_transformers

        from peers.sentence_transformers_onnx import exported

        exported(folder, getattr(sentence_transformers, kind))
    return target


class Embedder:
    def __init__(self, folder: str) -> None:
        name, onnx = f"benchmark/{uuid4()}", _onnx(folder, "SentenceTransformer")
        hidden = json.loads((onnx / "config.json").read_text())["hidden_size"]
        TextEmbedding.add_custom_model(
            name, pooling=PoolingType.CLS, normalization=True, sources=ModelSource(hf=name), dim=hidden
        )
        self._model = TextEmbedding(name, specific_model_path=str(onnx), cuda=False)

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        return np.stack(list(self._model.embed(texts)))

    def query(self, text: str) -> NDArray[np.float32]:
        return np.asarray(next(iter(self._model.query_embed(text))))


class Reranker:
    def __init__(self, folder: str) -> None:
        name = f"benchmark/{uuid4()}"
        TextCrossEncoder.add_custom_model(name, sources=ModelSource(hf=name))
        self._model = TextCrossEncoder(name, specific_model_path=str(_onnx(folder, "CrossEncoder")), cuda=False)

    def scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        logits = np.array(list(self._model.rerank_pairs(pairs)), np.float32)
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
