"""sentence-transformers over OpenVINO, with OpenVINO's own choice of precision."""

from __future__ import annotations

from sentence_transformers import CrossEncoder, SentenceTransformer

from peers import sentence_transformers_torch
from peers.sentence_transformers_onnx import exported


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, SentenceTransformer, "openvino"), backend="openvino")


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, CrossEncoder, "openvino"), backend="openvino")
