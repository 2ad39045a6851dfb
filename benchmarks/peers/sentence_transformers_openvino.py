"""sentence-transformers over OpenVINO, with OpenVINO's own choice of precision."""

from __future__ import annotations

import shutil
from pathlib import Path

from sentence_transformers import CrossEncoder, SentenceTransformer

from peers import sentence_transformers_torch


def _exported(folder: str, kind: type[SentenceTransformer] | type[CrossEncoder]) -> str:
    """The checkpoint with openvino/openvino_model.xml, in a folder of its own beside it; made once."""
    target = Path(f"{folder}-openvino")
    if not target.exists():
        unfinished = Path(f"{folder}-openvino.part")
        kind(folder, device="cpu", backend="openvino", model_kwargs={"export": True}).save_pretrained(str(unfinished))
        shutil.move(unfinished, target)
    return str(target)


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str) -> None:
        super().__init__(_exported(folder, SentenceTransformer), backend="openvino")


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(_exported(folder, CrossEncoder), backend="openvino")
