"""On a GPU: the oracle's numbers, recorded graphs and out-of-memory. Run with `make test-cuda`."""

import numpy as np
import pytest
import torch
from conftest import CHECKPOINTS, assert_close

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import OutOfMemoryError
from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.graphs import GraphedEncoder
from bge_integrations.models.interface import OutputSpec, TokenSequence
from bge_integrations.models.loading import load_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_m3_agrees_with_the_oracle(texts, oracle, dtype, tolerance):
    case = oracle["cases"]["m3"]["values"]["encode"]
    with load_embedder(CHECKPOINTS / "bge-m3", device="cuda", dtype=dtype) as embedder:
        found = embedder.encode(texts, sparse=True, multi_vector=True, max_length=64, on_truncate="ignore")
    assert_close(found.dense, case["dense_vecs"], tolerance)
    for vectors, expected in zip(found.multi_vector, case["colbert_vecs"], strict=True):
        assert_close(vectors, expected, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_a_decoder_agrees_with_the_oracle(texts, oracle, dtype, tolerance):
    case = oracle["cases"]["llm"]["values"]
    with load_embedder(CHECKPOINTS / "bge-multilingual-gemma2", device="cuda", dtype=dtype) as embedder:
        found = embedder.encode(texts, kind="query", max_length=48, on_truncate="ignore").dense
    assert_close(found, case["q"], tolerance)


def test_a_reranker_agrees_with_the_oracle(pairs, oracle):
    case = oracle["cases"]["reranker"]["values"]
    with load_reranker(CHECKPOINTS / "bge-reranker-v2-m3", device="cuda", dtype="float32") as loaded:
        assert_close(loaded.score(pairs, on_truncate="ignore"), case["raw"], 1e-4)


@torch.inference_mode()
def test_a_recorded_graph_agrees_with_the_encoder():
    model = load_model(CHECKPOINTS / "bge-base-en-v1.5", "encoder", "cuda:0", "bfloat16", None, "torch")
    graphed = model._encoder
    assert isinstance(graphed, GraphedEncoder)
    sequences = [TokenSequence(np.arange(5, 5 + length, dtype=np.int32)) for length in (9, 4)]
    batch = PackedBatch.pack(sequences, torch.device("cuda:0"))
    expected = graphed._encoder(batch, lambda: None)
    graphed(batch, lambda: None)  # records
    assert graphed._graphs
    assert_close(graphed(batch, lambda: None).float().cpu(), expected.float().cpu(), 0.05)


def test_a_batch_that_does_not_fit_is_out_of_memory():
    model = load_model(CHECKPOINTS / "bge-base-en-v1.5", "encoder", "cuda:0", "float32", None, "torch")
    sequences = [TokenSequence(np.full(64, 5, np.int32)) for _ in range(4096)]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(OutOfMemoryError):
            model.run(sequences, OutputSpec(pooling="mean"), lambda: None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert model.run(sequences[:2], OutputSpec(pooling="mean"), lambda: None)[0].is_finite()
