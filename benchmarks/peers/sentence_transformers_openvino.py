"""sentence-transformers with OpenVINO, which defaults to bfloat16 on processors that support it."""

from __future__ import annotations

from typing import Any

from sentence_transformers import CrossEncoder, SentenceTransformer

from peers import sentence_transformers_torch
from peers.sentence_transformers_onnx import exported


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(exported(folder, SentenceTransformer, "openvino"), backend="openvino", **settings)


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(exported(folder, CrossEncoder, "openvino"), backend="openvino", **settings)
