"""The alternatives to this package, one module each. A module can have these classes; what it lacks is not measured.

    Embedder(folder)      passages(texts) -> (n, dimension); query(text) -> (dimension,); and async aquery(text)
    Reranker(folder)      scores(pairs) -> (n,) in (0, 1)
    ThreeOutputs(folder)  passages(texts) -> dense (n, dimension), sparse (n, vocabulary), multi (tokens, dimension)

Each class also accepts the peer's settings. The first call is not timed. Packages run with their defaults, except for
the device (CPU) and float32.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).parent.parent.parent / ".bench-envs"


@dataclass(frozen=True, eq=False)
class Peer:
    """A package with settings to measure it with.

    Attributes:
        module: The module in this folder.
        package: The package that its users import.
        distributions: The distributions that must be installed.
        environment: Its folder in .bench-envs, for packages that can't share an environment with this project.
        settings: Keyword arguments of the module's classes.
    """

    module: str
    package: str
    distributions: tuple[str, ...]
    environment: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The Python of the peer's environment if that exists, else the current one."""
        own = ENVIRONMENTS / self.environment / "bin" / "python"
        return own if self.environment and own.exists() else Path(sys.executable)

    def versions(self) -> dict[str, str]:
        """Return the versions of its distributions in the current Python; "" for those that are not installed."""
        versions = {}
        for name in self.distributions:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = ""
        return versions


OURS = "ours"
#: The bare matrix product (see `timing.gemm_gflops`) that limits each of our dtypes.
OWN_CEILINGS = {OURS: "float32", "ours (bfloat16)": "bfloat16", "ours (int8)": "int8"}
_OWN = ("transformers", "torch")
_TORCH = ("sentence-transformers", "transformers", "torch")
_ONNX = ("sentence-transformers", "transformers", "optimum-onnx", "onnxruntime")
_OPENVINO = ("sentence-transformers", "transformers", "optimum-intel", "openvino")
PEERS = {
    OURS: Peer("ours", "bge_integrations", _OWN),
    "ours (bfloat16)": Peer("ours", "bge_integrations", _OWN, settings={"dtype": "bfloat16"}),
    "ours (int8)": Peer("ours", "bge_integrations", _OWN, settings={"dtype": "int8"}),
    "ours (three passes)": Peer("ours_three_passes", "bge_integrations", _OWN),
    "sentence-transformers": Peer("sentence_transformers_torch", "sentence_transformers", _TORCH),
    "sentence-transformers (best batch)": Peer("sentence_transformers_best_batch", "sentence_transformers", _TORCH),
    "sentence-transformers (ONNX)": Peer("sentence_transformers_onnx", "sentence_transformers", _ONNX, "onnx"),
    "sentence-transformers (ONNX int8)": Peer("sentence_transformers_int8", "sentence_transformers", _ONNX, "onnx"),
    "sentence-transformers (OpenVINO)": Peer(
        "sentence_transformers_openvino", "sentence_transformers", _OPENVINO, "openvino"
    ),
    "sentence-transformers (OpenVINO float32)": Peer(
        "sentence_transformers_openvino",
        "sentence_transformers",
        _OPENVINO,
        "openvino",
        settings={"model_kwargs": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}},
    ),
    "FlagEmbedding": Peer("flag_embedding", "FlagEmbedding", ("FlagEmbedding", "transformers", "torch")),
    "infinity_emb": Peer("infinity", "infinity_emb", ("infinity_emb", *_TORCH), "infinity"),
    "fastembed": Peer("fastembed_onnx", "fastembed", ("fastembed", "optimum-onnx", "onnxruntime"), "onnx"),
    "langchain-huggingface": Peer("langchain", "langchain_huggingface", ("langchain-huggingface", *_TORCH)),
    "llama-index-embeddings-huggingface": Peer(
        "llama_index_huggingface",
        "llama_index.embeddings.huggingface",
        ("llama-index-embeddings-huggingface", *_TORCH),
    ),
}
