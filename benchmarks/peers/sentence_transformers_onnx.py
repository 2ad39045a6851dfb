"""sentence-transformers with onnxruntime, in float32."""

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
    """Return a folder next to the checkpoint with its export for this backend, which the first peer creates."""
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
