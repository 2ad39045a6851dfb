"""Shared fixtures: the oracle's checkpoints and numbers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core.residency import SharedModel
from bge_integrations.core.runner import ModelRunner
from bge_integrations.models.interface import OutputSpec

if os.environ.get("BGE_TEST_CUDA") != "1":  # the other tests compare with float32 on the CPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

pytest.register_assert_rewrite("llama_index_contract")

TESTS = Path(__file__).parent
ORACLE = TESTS / "oracle"
CHECKPOINTS = ORACLE / "checkpoints"
MODEL_FILES = TESTS / "model_files"

BASE = str(CHECKPOINTS / "bge-base-en-v1.5")
M3 = str(CHECKPOINTS / "bge-m3")
RERANKER = str(CHECKPOINTS / "bge-reranker-v2-m3")


#: Published names, the tiny checkpoints that stand for them, and max_seq_length where the hub has such files.
PUBLISHED = {
    "bge-base-en-v1.5": ("bge-base-en-v1.5", 512),
    "bge-small-en-v1.5": ("bge-base-en-v1.5", 512),
    "bge-m3": ("bge-m3", 8192),
    "bge-reranker-v2-m3": ("bge-reranker-v2-m3", None),
    **{
        name: (name, None)
        for name in (
            "bge-multilingual-gemma2",
            "bge-en-icl",
            "bge-reranker-v2-gemma",
            "bge-reranker-v2-minicpm-layerwise",
            "bge-reranker-v2.5-gemma2-lightweight",
        )
    },
}


@pytest.fixture(scope="module")
def pocket():
    with load_embedder("pocket") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def pocket_reranker():
    with load_reranker("pocket") as reranker:
        yield reranker


class ComputedBatch(NamedTuple):
    """Where a batch was computed, what of it, and the lengths of its sequences in tokens."""

    device: str
    spec: OutputSpec
    lengths: list[int]


@pytest.fixture
def batches(monkeypatch) -> list[ComputedBatch]:
    """The batches that are computed from now on."""
    computed: list[ComputedBatch] = []
    run = ModelRunner.run

    def noted(runner, batch, between_layers):
        lengths = [len(queued.sequence) for queued in batch]
        computed.append(ComputedBatch(runner.shared.key.device, runner.spec, lengths))
        return run(runner, batch, between_layers)

    monkeypatch.setattr(ModelRunner, "run", noted)
    return computed


@pytest.fixture
def lengths(batches) -> Callable[[], list[int]]:
    """Returns the lengths in tokens of all sequences that were computed since the test began."""
    return lambda: [length for batch in batches for length in batch.lengths]


@pytest.fixture
def model_uses(monkeypatch) -> list[SharedModel]:
    """The shared models that are asked for from now on, each time that one is loaded or found in memory."""
    asked: list[SharedModel] = []
    load = SharedModel.load
    monkeypatch.setattr(SharedModel, "load", lambda self: asked.append(self) or load(self))
    return asked


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt the tests' process, even if it was started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


#: The first line of a program that is sent SIGINT: it inherits an ignored SIGINT, as under `nohup`.
ALLOW_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.fixture(scope="session")
def hub_environment(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that finds the tiny checkpoints in its hub cache under the published names."""
    home = tmp_path_factory.mktemp("hf")
    for name, (checkpoint, max_seq_length) in PUBLISHED.items():
        repository = home / "hub" / f"models--BAAI--{name}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        for file in (CHECKPOINTS / checkpoint).iterdir():
            (snapshot / file.name).symlink_to(file)
        if max_seq_length is not None:
            _add_sentence_transformers_files(snapshot, max_seq_length)
    return {
        **os.environ,
        "HF_HOME": str(home),
        "LLAMA_INDEX_CACHE_DIR": str(home / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def run_as_user(hub_environment, tmp_path) -> Callable[..., None]:
    """Runs code as a program of its own, in an empty folder, with the tiny checkpoints in the hub's cache."""

    def run(code: str, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=hub_environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    return run


def _add_sentence_transformers_files(folder: Path, max_seq_length: int) -> None:
    """CLS pooling and normalisation, in the layout that the published repositories have."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{part}"}
        for i, (path, part) in enumerate(parts)
    ]
    width = json.loads((folder / "config.json").read_text("utf-8"))["hidden_size"]
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_seq_length}))


@pytest.fixture(scope="session")
def oracle() -> dict[str, Any]:
    return json.loads((ORACLE / "expected.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def texts(oracle) -> list[str]:
    return oracle["texts"]


@pytest.fixture(scope="session")
def pairs(oracle) -> list[tuple[str, str]]:
    return [(query, passage) for query, passage in oracle["pairs"]]


@pytest.fixture(scope="session")
def base():
    with load_embedder(BASE) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def m3():
    with load_embedder(M3) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def reranker():
    with load_reranker(RERANKER) as loaded:
        yield loaded


def assert_close(found, expected, tolerance: float = 1e-5) -> None:
    """The largest difference is at most `tolerance` of the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    difference = np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    assert difference <= tolerance, f"relative difference {difference:.2e}"
