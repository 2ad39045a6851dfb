"""sentence-transformers over onnxruntime, float32."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from sentence_transformers import CrossEncoder, SentenceTransformer

from peers import sentence_transformers_torch


def exported(
    folder: str,
    kind: type[SentenceTransformer] | type[CrossEncoder],
    backend: Literal["onnx", "openvino"] = "onnx",
) -> str:
    """The checkpoint for that backend, in a folder of its own beside it; made once, by the first peer that asks."""
    target = Path(f"{folder}-{backend}")
    if not target.exists():
        unfinished = Path(f"{target}.part")
        kind(folder, device="cpu", backend=backend, model_kwargs={"export": True}).save_pretrained(str(unfinished))
        shutil.move(unfinished, target)
    return str(target)


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, SentenceTransformer), backend="onnx")


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, CrossEncoder), backend="onnx")
