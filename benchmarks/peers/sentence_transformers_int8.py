"""sentence-transformers with onnxruntime and int8 weights from its own export."""

from __future__ import annotations

from pathlib import Path

from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.backend import export_dynamic_quantized_onnx_model

from peers import sentence_transformers_torch
from peers.sentence_transformers_onnx import exported

_FILE = "model_qint8_avx512_vnni.onnx"


def _settings(folder: str, kind: type[SentenceTransformer] | type[CrossEncoder]) -> dict[str, object]:
    if not (Path(folder) / "onnx" / _FILE).exists():
        export_dynamic_quantized_onnx_model(kind(folder, device="cpu", backend="onnx"), "avx512_vnni", folder)
    return {"backend": "onnx", "model_kwargs": {"file_name": f"onnx/{_FILE}"}}


class Embedder(sentence_transformers_torch.Embedder):
    def __init__(self, folder: str) -> None:
        onnx = exported(folder, SentenceTransformer)
        super().__init__(onnx, **_settings(onnx, SentenceTransformer))


class Reranker(sentence_transformers_torch.Reranker):
    def __init__(self, folder: str) -> None:
        onnx = exported(folder, CrossEncoder)
        super().__init__(onnx, **_settings(onnx, CrossEncoder))
