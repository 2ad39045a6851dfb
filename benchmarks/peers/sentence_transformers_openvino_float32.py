"""sentence-transformers over OpenVINO, held to float32: by itself it takes bfloat16 on processors that have it."""

from __future__ import annotations

from sentence_transformers import CrossEncoder, SentenceTransformer

from peers import sentence_transformers_torch
from peers.sentence_transformers_onnx import exported

_FLOAT32 = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str) -> None:
        openvino = exported(folder, SentenceTransformer, "openvino")
        super().__init__(openvino, backend="openvino", model_kwargs=_FLOAT32)


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(exported(folder, CrossEncoder, "openvino"), backend="openvino", model_kwargs=_FLOAT32)
