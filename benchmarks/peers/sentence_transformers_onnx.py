"""sentence-transformers over onnxruntime, float32."""

from __future__ import annotations

import shutil
from pathlib import Path

from sentence_transformers import CrossEncoder, SentenceTransformer

from peers import sentence_transformers_torch


def exported(folder: str, kind: type[SentenceTransformer] | type[CrossEncoder]) -> str:
    """The checkpoint with onnx/model.onnx, in a folder of its own beside it; made once, by the first peer that asks."""
    target = Path(f"{folder}-onnx")
    if not target.exists():
        unfinished = Path(f"{folder}-onnx.part")
        kind(folder, device="cpu", backend="onnx", model_kwargs={"export": True}).save_pretrained(str(unfinished))
        shutil.move(unfinished, target)
    return str(target)


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, SentenceTransformer), backend="onnx")


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, CrossEncoder), backend="onnx")
