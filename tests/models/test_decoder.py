"""The decoder backbone agrees with transformers, also for beginnings that several texts share and compute once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import ALLOW_SIGINT, CHECKPOINTS, assert_close
from transformers import AutoTokenizer

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import (
    CheckpointError,
    InvalidInputError,
    NotSupportedError,
    OutOfMemoryError,
    TruncationWarning,
)
from bge_integrations.models import memory
from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.decoder_config import DecoderConfig
from bge_integrations.models.interface import TokenSequence

TOKENIZER = CHECKPOINTS / "bge-en-icl"
SIZES = {
    "vocab_size": 556,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
#: (transformers config class, its arguments besides the sizes); sliding windows are shorter than the texts.
TRUNKS = {
    "gemma": ("GemmaConfig", {"head_dim": 20}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 7, "attn_logit_softcapping": 3.0},
    ),
    "mistral": ("MistralConfig", {"sliding_window": 7, "head_dim": 12}),
    "mistral without window": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1, "head_dim": 20}),
    "qwen3 without window": ("Qwen3Config", {"head_dim": 16}),
    # the MiniCPM block is Granite's under other names
    "minicpm": (
        "GraniteConfig",
        {"embedding_multiplier": 12.0, "residual_multiplier": 1.4 / 3**0.5, "attention_multiplier": 12**-0.5},
    ),
}


def save_backbone(folder: Path, name: str):
    """Save a random transformers model in `folder`, split into shards, with a tokenizer."""
    torch.manual_seed(5)
    config_class, options = TRUNKS[name]
    config = getattr(transformers, config_class)(**SIZES, **options, attn_implementation="eager")
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():  # otherwise all norms are 1 and biases 0, which hides bugs
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").exists()
    if name == "minicpm":
        stored = json.loads((folder / "config.json").read_text())
        stored |= {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4}
        (folder / "config.json").write_text(json.dumps(stored))
    for file in TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, folder)
    return model


def last_states(model, texts: list[str]) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


@pytest.mark.parametrize("name", TRUNKS)
def test_backbones_agree_with_transformers(tmp_path, texts, name):
    model = save_backbone(tmp_path, name)
    short = texts[:-1]
    with load_embedder(tmp_path, family="decoder", query_instruction="find: ") as embedder:
        assert_close(embedder.encode(short, on_truncate="ignore").dense, last_states(model, short))
        queries = ["find: " + text for text in short[:5]]  # their beginning is computed once
        found = embedder.encode(short[:5], kind="query", on_truncate="ignore").dense
        assert_close(found, last_states(model, queries))


def test_a_bidirectional_decoder(tmp_path, texts):
    """Without a causal mask, early tokens attend to later ones, which changes the state of the last token."""
    save_backbone(tmp_path, "mistral without window")
    with load_embedder(tmp_path, family="decoder") as embedder:
        causal = embedder.encode(texts[:3], on_truncate="ignore").dense
    with load_embedder(tmp_path, family="bidirectional_decoder", query_instruction="find: ") as embedder:
        found = embedder.encode(texts[:3], on_truncate="ignore").dense
        queries = embedder.encode(texts[:3], kind="query", on_truncate="ignore").dense
        assert np.abs(found - causal).max() > 1e-3
        alone = embedder.encode([texts[1]], kind="query", on_truncate="ignore").dense[0]
        assert_close(queries[1], alone)
    config = json.loads((tmp_path / "config.json").read_text()) | {"is_causal": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with load_embedder(tmp_path, family="decoder") as embedder:
        assert_close(embedder.encode(texts[:3], on_truncate="ignore").dense, found)
    model = transformers.MistralModel.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    for i, text in enumerate(texts[:3]):
        inputs = tokenizer(text, return_tensors="pt")
        size = inputs["input_ids"].shape[1]
        everything = torch.zeros(1, 1, size, size)  # a mask that masks nothing
        with torch.inference_mode():
            state = model(input_ids=inputs["input_ids"], attention_mask=everything).last_hidden_state[0, -1]
        assert_close(found[i], torch.nn.functional.normalize(state, dim=-1))


def test_a_common_beginning_is_computed_once():
    def sequence(*ids: int, shared: int) -> TokenSequence:
        return TokenSequence(np.array(ids, np.int32), shared=shared)

    sequences = [sequence(1, 2, 7, 8, shared=2), sequence(1, 2, 9, shared=2), sequence(1, 3, 9, shared=2)]
    batch = PackedBatch.pack([*sequences, sequence(1, 2, 5, 5, 5, shared=0)], torch.device("cpu"), is_causal=True)
    assert batch.sharing is not None
    computed = batch.only_computed(batch.ids)
    assert computed.tolist() == [1, 2, 5, 5, 5, 1, 2, 7, 8, 9, 1, 3, 9]
    assert batch.of_each_token(computed).tolist() == batch.ids.tolist()
    kept = batch.keep(computed != 2)
    assert kept.of_each_token(kept.only_computed(kept.ids)).tolist() == kept.ids.tolist()
    assert kept.ids.tolist() == [i for i in batch.ids.tolist() if i != 2]
    assert kept.lengths == (4, 3, 2, 3)


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("bge-reranker-v2-gemma", {}),
        ("bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": [3, 6]}),
        ("bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": 4, "compress_layers": [2, 4]}),
    ],
)
def test_passages_of_one_query_score_as_each_alone(folder, options, texts):
    """One call computes the query once for all of its passages."""
    pairs = [(query, passage) for query in texts[:3] for passage in texts[:-1]]
    with load_reranker(CHECKPOINTS / folder, **options) as reranker:
        together = reranker.score(pairs, on_truncate="ignore")
        alone = np.stack([reranker.score([pair], on_truncate="ignore")[..., 0] for pair in pairs], axis=-1)
    assert_close(together, alone)


def test_queries_with_examples_are_embedded_as_each_alone(texts):
    examples = [{"query": "what is a panda?", "response": "a bear"}] * 3
    with load_embedder(CHECKPOINTS / "bge-en-icl", examples=examples) as embedder:
        together = embedder.encode(texts[:6], kind="query", on_truncate="ignore").dense
        for text, row in zip(texts[:6], together, strict=True):
            assert_close(embedder.encode([text], kind="query", on_truncate="ignore").dense[0], row)


def test_bidirectional_models_share_no_prefix(tmp_path, pairs):
    """A prefix depends on what follows it if the config of a reranker or an in-context model is not causal."""
    for name in ("bge-reranker-v2-gemma", "bge-en-icl"):
        shutil.copytree(CHECKPOINTS / name, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text()) | {
            "is_causal": False,
            "sliding_window": None,
        }
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    with load_reranker(tmp_path / "bge-reranker-v2-gemma") as reranker:
        passages = [(pairs[0][0], passage) for _, passage in pairs]
        alone = np.concatenate([reranker.score([pair], on_truncate="ignore") for pair in passages])
        assert_close(reranker.score(passages, on_truncate="ignore"), alone)
    with load_embedder(tmp_path / "bge-en-icl", examples=[{"query": "a", "response": "b"}]) as embedder:
        together = embedder.encode(["one", "two words"], kind="query").dense
        assert_close(together[0], embedder.encode(["one"], kind="query").dense[0])


def test_a_missing_head_is_an_error(tmp_path, pairs):
    """Token embeddings are used as the language model's head only if the config ties them."""
    save_backbone(tmp_path, "mistral")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load_reranker(tmp_path, family="llm_reranker")
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_reranker(tmp_path, family="llm_reranker").close()


def test_examples_longer_than_the_model_accepts_are_refused():
    examples = [{"query": "word " * 3000, "response": "b"}]
    with pytest.raises(InvalidInputError, match=r"examples.*\b4096\b"):
        load_embedder(CHECKPOINTS / "bge-en-icl", examples=examples)
    few = [{"query": "word " * 30, "response": "b"}]
    with load_embedder(CHECKPOINTS / "bge-en-icl", examples=few) as embedder:
        assert embedder.max_length == 4096  # for passages, too
        with pytest.warns(TruncationWarning):
            embedder.encode(["word " * 2000], kind="query")
        embedder.encode(["word " * 1000], kind="query", on_truncate="error")


def test_an_interrupted_caller_does_not_wait_for_the_weights(tmp_path):
    code = """
import signal, threading
from bge_integrations.core import residency
from bge_integrations import load_embedder
load_model, loading, interrupted = residency.load_model, threading.Event(), threading.Event()

def load_slowly(*arguments):
    loading.set()
    interrupted.wait(60)
    return load_model(*arguments)

def interrupt():
    loading.wait()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

residency.load_model = load_slowly
threading.Thread(target=interrupt).start()
try:
    load_embedder("pocket")
except KeyboardInterrupt:
    print("interrupted", residency.models_in_memory())
    interrupted.set()
"""
    command = [sys.executable, "-c", ALLOW_SIGINT + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout == "interrupted []\n"


def test_layers_above_the_cutoff_are_not_read(tmp_path, pairs):
    """A checkpoint whose upper layers are missing still scores below them."""
    from safetensors.torch import load_file, save_file

    source = CHECKPOINTS / "bge-reranker-v2-minicpm-layerwise"
    for file in source.iterdir():
        shutil.copy(file, tmp_path)
    weights = load_file(source / "model.safetensors")
    save_file({k: v for k, v in weights.items() if ".layers.5." not in k}, tmp_path / "model.safetensors")
    with load_reranker(source, cutoff_layers=[5]) as whole, load_reranker(tmp_path, cutoff_layers=[5]) as part:
        assert_close(part.score(pairs, on_truncate="ignore"), whole.score(pairs, on_truncate="ignore"))
    with pytest.raises(CheckpointError, match=r"layers\.5\."):
        load_reranker(tmp_path)


@pytest.mark.parametrize(("kind", "multi"), [("simple", False), ("complex", True), ("raw", False), ("raw", True)])
def test_other_heads_of_layerwise_rerankers(tmp_path, pairs, kind, multi):
    """There is one head per layer or one for all; a vocabulary-sized head scores scaled states by its row of "Yes"."""
    from safetensors.torch import load_file, save_file

    source = CHECKPOINTS / "bge-reranker-v2-minicpm-layerwise"
    for file in source.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((source / "config.json").read_text()) | {"head_type": kind, "head_multi": multi}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(source / "model.safetensors")
    heads = {name: weights.pop(name) for name in list(weights) if name.startswith("lm_head")}
    yes = AutoTokenizer.from_pretrained(source)("Yes", add_special_tokens=False).input_ids[0]
    for name, row in heads.items():
        head = row
        if kind != "simple":
            head = torch.zeros(config["vocab_size"], config["hidden_size"])
            head[yes] = row[0] * config["hidden_size"] / config["dim_model_base"]
        number = name.split(".")[1]
        place = f"{number}." if multi else ""
        if multi or number == "4":
            weights[f"lm_head.{place}{'weight' if kind == 'raw' else 'linear_head.weight'}"] = head
    save_file(weights, tmp_path / "model.safetensors")
    with load_reranker(tmp_path) as found, load_reranker(source) as expected:
        assert_close(found.score(pairs, on_truncate="ignore"), expected.score(pairs, on_truncate="ignore"))


def test_cutoffs_come_in_the_order_asked_for(pairs):
    folder = CHECKPOINTS / "bge-reranker-v2-minicpm-layerwise"
    with load_reranker(folder, cutoff_layers=[6, 2]) as both, load_reranker(folder, cutoff_layers=2) as low:
        assert both.cutoff_layers == (6, 2)
        found = both.score(pairs, on_truncate="ignore")
        assert found.shape == (2, len(pairs))
        assert_close(found[1], low.score(pairs, on_truncate="ignore"))
        assert both.score([]).shape == (2, 0)
    with load_reranker(folder) as last:
        assert_close(found[0], last.score(pairs, on_truncate="ignore"))
        assert last.score([]).shape == (0,)


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("bge-reranker-v2-gemma", {"cutoff_layers": 3}, "last layer only"),
        ("bge-reranker-v2-gemma", {"family": "icl"}, "is an embedder"),
        ("bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": np.array([2, 4])}, "1, 2, 4, 8"),
        ("bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": 2.0}, "1, 2, 4, 8"),
        ("bge-reranker-v2.5-gemma2-lightweight", {"cutoff_layers": b"\x05"}, "cutoff_layers"),
        ("bge-reranker-v2-gemma", {"compress_ratio": 2}, "compress_ratio"),
        ("bge-reranker-v2-m3", {"prompt": "Is it so?"}, "prompt"),
        ("bge-reranker-v2-gemma", {"prompt": "  "}, "prompt"),
        ("bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": 1}, "2, 3, 4, 5, 6"),
        ("bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": [3, 3]}, "at most once"),
        ("bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": "3"}, "whole number"),
        ("bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": []}, r"cutoff_layers=\[\]"),
        ("bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": 3}, "1, 2, 4, 8"),
        (
            "bge-reranker-v2.5-gemma2-lightweight",
            {"compress_ratio": 2, "compress_layers": [6]},
            r"compress_layers=\[6\]",
        ),
        ("bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": 2}, "compress_layers"),
        (
            "bge-reranker-v2.5-gemma2-lightweight",
            {"compress_ratio": 2, "compress_layers": [4], "cutoff_layers": 4},
            r"compress_layers=\[4\]",
        ),
        ("bge-reranker-v2.5-gemma2-lightweight", {"compress_layers": [2]}, "compress_layers.*compress_ratio"),
    ],
)
def test_rerankers_refuse_settings_that_they_do_not_support(folder, options, message):
    with pytest.raises(InvalidInputError, match=message):
        load_reranker(CHECKPOINTS / folder, **options)


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("bge-multilingual-gemma2", {"examples": [{"query": "a", "response": "b"}]}, "examples"),
        ("bge-multilingual-gemma2", {"task": "websearch"}, "'websearch'.*web_search"),
        ("bge-multilingual-gemma2", {"task": ["sts"]}, r"task=\['sts'\]"),
        ("bge-en-icl", {"examples": np.array([1, 2])}, "examples.*ndarray"),
        ("bge-multilingual-gemma2", {"task": "sts", "query_instruction": "Find it."}, "task.*query_instruction"),
        ("bge-multilingual-gemma2", {"pooling": "cls"}, "pooling='cls'"),
        ("bge-en-icl", {"examples": [{"query": "a"}]}, r"examples\[0\]"),
        ("bge-en-icl", {"examples": {"query": "a", "response": "b"}}, r"examples.*\bdict\b"),
        ("bge-en-icl", {"examples": "a"}, r"examples.*\bstr\b"),
        ("bge-en-icl", {"examples": [{"query": "a", "response": 3}]}, r"examples\[0\].*'response'"),
    ],
)
def test_embedders_refuse_settings_that_they_do_not_support(folder, options, message):
    with pytest.raises(InvalidInputError, match=message):
        load_embedder(CHECKPOINTS / folder, **options)


def test_another_prompt_changes_the_score(pairs):
    folder = CHECKPOINTS / "bge-reranker-v2-gemma"
    with load_reranker(folder) as usual, load_reranker(folder, prompt="Does B answer A?") as other:
        assert other.prompt == "Does B answer A?"
        difference = usual.score(pairs, on_truncate="ignore") - other.score(pairs, on_truncate="ignore")
        assert np.abs(difference).max() > 1e-3


def test_the_family_of_a_reranker_follows_from_its_config(tmp_path, pairs):
    for name in ("bge-reranker-v2-minicpm-layerwise", "bge-reranker-v2.5-gemma2-lightweight"):
        folder = tmp_path / f"own-{name[-5:]}"
        shutil.copytree(CHECKPOINTS / name, folder)
        with load_reranker(folder) as own, load_reranker(CHECKPOINTS / name) as published:
            assert_close(own.score(pairs, on_truncate="ignore"), published.score(pairs, on_truncate="ignore"))
    plain = tmp_path / "mine"
    shutil.copytree(CHECKPOINTS / "bge-reranker-v2-gemma", plain)
    with pytest.raises(InvalidInputError, match="family='llm_reranker'"):
        load_reranker(plain)
    load_reranker(plain, family="llm_reranker").close()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, NotSupportedError),
        ({"hidden_act": "relu"}, NotSupportedError),
        ({"model_type": "llama"}, NotSupportedError),
        ({"num_key_value_heads": 3}, CheckpointError),
        ({"rope_parameters": "linear"}, CheckpointError),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": float("nan")}, "rope_theta": None},
            CheckpointError,
        ),
        ({"hidden_act": ["x"]}, CheckpointError),
        ({"num_hidden_layers": float("inf")}, CheckpointError),
        ({"sliding_window": -3}, CheckpointError),
        ({"sliding_window": True}, CheckpointError),
        ({"layer_types": ["strange", "strange"]}, NotSupportedError),
        ({"quantization_config": {"bits": 4}}, NotSupportedError),
        ({"attention_bias": True}, NotSupportedError),
        ({"hidden_size": "wide"}, CheckpointError),
        ({"intermediate_size": 96}, CheckpointError),
        ({"num_hidden_layers": 99}, CheckpointError),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, changes, error):
    for file in TOKENIZER.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error):
        load_embedder(tmp_path, family="icl")


def test_a_config_of_qwen3_without_head_dim_means_128(tmp_path):
    save_backbone(tmp_path, "qwen3")
    config = json.loads((tmp_path / "config.json").read_text())
    assert DecoderConfig.read(config).head_size == 20
    assert DecoderConfig.read({key: value for key, value in config.items() if key != "head_dim"}).head_size == 128
    assert DecoderConfig.read(config | {"use_sliding_window": False}).windows == (None, None, None)


def test_added_tokens_without_an_embedding_are_read_as_plain_text(tmp_path, caplog):
    """Qwen3-Embedding-4B's tokenizer has tokens such as <think> that its weights lack."""
    save_backbone(tmp_path, "qwen3 without window")
    with load_embedder(tmp_path, family="decoder") as embedder:
        expected = embedder.encode(["<think> a panda"]).dense
    assert not any("<think>" in record.getMessage() for record in caplog.records)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    added = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    extra = added | {"id": SIZES["vocab_size"], "content": "<think>", "special": False}
    last = added | {"id": SIZES["vocab_size"] - 1, "content": "<last>", "special": False}  # has an embedding
    tokenizer["added_tokens"] += [last, extra]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with load_embedder(tmp_path, family="decoder") as embedder:
        assert_close(embedder.encode(["<think> a panda"]).dense, expected)
    assert any("<think>" in record.getMessage() for record in caplog.records)
    extra["special"] = True  # the model can't do without it
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"\b557\b.*\b556\b"):
        load_embedder(tmp_path, family="decoder")


def test_int8_weights_are_close_and_small(texts, pairs):
    folder = CHECKPOINTS / "bge-multilingual-gemma2"
    with load_embedder(folder) as exact, load_embedder(folder, dtype="int8") as small:
        assert small.dtype == "int8"
        a, b = (e.encode(texts, on_truncate="ignore").dense for e in (exact, small))
        assert 0.999 < (a * b).sum(1).min() < 0.9999999


def write_large(folder: Path) -> int:
    """Write a checkpoint of 126 million bfloat16 weights in two files; return its size in bytes as float32."""
    config = transformers.MistralConfig(
        **SIZES | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 32}
    )
    model = transformers.MistralModel(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="150MB")
    for file in TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, folder)
    return sum(parameter.numel() for parameter in model.parameters()) * 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_large_checkpoint_takes_no_more_memory_than_its_weights(tmp_path):
    size = write_large(tmp_path)
    code = """
import sys
from bge_integrations import load_embedder

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

load_embedder(sys.argv[1], family="icl").encode(["warm"])
before = peak()
embedder = load_embedder(sys.argv[2], family="decoder", dtype=sys.argv[3])
print(peak() - before)
"""
    # tensors this small would fragment the heap; the tensors of large models are allocated outside it
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    for dtype, share in (("float32", 1.0), ("bfloat16", 0.5), ("int8", 0.25)):
        arguments = [sys.executable, "-c", code, str(TOKENIZER), str(tmp_path), dtype]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) <= 1.1 * share * size + 10e6, dtype


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    for file in TOKENIZER.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "model.safetensors").unlink()  # otherwise the error would be about this file
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"GB.*\bcpu\b"):
        load_embedder(tmp_path, family="icl")
    monkeypatch.setattr(memory, "free_memory", lambda device: 300_000)
    with pytest.raises(OutOfMemoryError, match=r"dtype='bfloat16'.*GB.*dtype='int8'"):
        load_embedder(tmp_path, family="icl")


def test_a_containers_memory_limit_applies(tmp_path, monkeypatch):
    for name, text in (("max", "5000"), ("current", "4500"), ("stat", "anon 9\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_memory(torch.device("cpu")) == 800
    (tmp_path / "memory.max").write_text("max")
    free = memory.free_memory(torch.device("cpu"))
    assert free is None or free > 10e6


def test_tokens_that_the_tokenizer_config_requires_are_added(tmp_path):
    """Some tokenizer.json files lack the end token that tokenizer_config.json requires and the model pools."""
    shutil.copytree(CHECKPOINTS / "bge-multilingual-gemma2", tmp_path / "bge-multilingual-gemma2")
    folder = tmp_path / "bge-multilingual-gemma2"
    with load_embedder(folder) as embedder:
        expected = embedder.encode(["a panda"]).dense
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    processor = tokenizer["post_processor"]
    processor["single"] = [part for part in processor["single"] if part.get("SpecialToken", {}).get("id") != "<eos>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with load_embedder(folder) as embedder:
        assert_close(embedder.encode(["a panda"]).dense, expected)
