"""Shared fixtures: the oracle's checkpoints and numbers."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bge_integrations import load_embedder, load_reranker
from bge_integrations.cli import main
from bge_integrations.core.residency import SharedModel
from bge_integrations.core.runner import ModelRunner
from bge_integrations.models.interface import OutputSpec
from bge_integrations.training import TrainingRow

if os.environ.get("BGE_TEST_CUDA") != "1":  # all other tests expect float32 results from the CPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

pytest.register_assert_rewrite("llama_index_contract")

TESTS = Path(__file__).parent
ORACLE = TESTS / "oracle"
CHECKPOINTS = ORACLE / "checkpoints"
MODEL_FILES = TESTS / "model_files"

BASE = str(CHECKPOINTS / "bge-base-en-v1.5")
M3 = str(CHECKPOINTS / "bge-m3")
RERANKER = str(CHECKPOINTS / "bge-reranker-v2-m3")
CLIP = str(ORACLE / "vision" / "checkpoints" / "bge-vl-clip")
VISUALIZED = str(ORACLE / "vision" / "checkpoints" / "visualized-base")
IMAGES = ORACLE / "vision" / "images"


#: {published name: (tiny checkpoint that replaces it, its max_seq_length or None)}
PUBLISHED = {
    "bge-base-en-v1.5": ("bge-base-en-v1.5", 512),
    "bge-small-en-v1.5": ("bge-base-en-v1.5", 512),
    "bge-m3": ("bge-m3", 8192),
    "bge-reranker-v2-m3": ("bge-reranker-v2-m3", None),
    "BGE-VL-base": ("../vision/checkpoints/bge-vl-clip", None),
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


@pytest.fixture
def bge(capsys, monkeypatch):
    """Return a function that runs the command in this process and returns its exit status, stdout and stderr."""

    def run(*arguments, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def pocket():
    with load_embedder("pocket") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def pocket_reranker():
    with load_reranker("pocket") as reranker:
        yield reranker


@pytest.fixture(scope="module")
def engine_workers():
    """Let an engine's workers import the package that is tested, with one thread each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS.parent))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_agent_register_timeout_ms", "200000")  # the default is short for a busy machine
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a key into the home folder
        yield


class ComputedBatch(NamedTuple):
    """A computed batch: its device, its requested outputs, and the token lengths of its sequences."""

    device: str
    spec: OutputSpec
    lengths: list[int]


@pytest.fixture
def batches(monkeypatch) -> list[ComputedBatch]:
    """A list that collects the batches computed during the test."""
    computed: list[ComputedBatch] = []
    run = ModelRunner.run

    def record(runner, batch, between_layers):
        lengths = [len(queued.sequence) for queued in batch]
        computed.append(ComputedBatch(runner.shared.key.device, runner.spec, lengths))
        return run(runner, batch, between_layers)

    monkeypatch.setattr(ModelRunner, "run", record)
    return computed


@pytest.fixture
def lengths(batches) -> Callable[[], list[int]]:
    """Return a function that returns the token lengths of all sequences computed during the test."""
    return lambda: [length for batch in batches for length in batch.lengths]


@pytest.fixture
def model_uses(monkeypatch) -> list[SharedModel]:
    """A list that collects the shared models requested during the test, whether loaded or already in memory."""
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


#: The first line of a program that receives SIGINT, in case the tests run under `nohup`, which ignores it.
ALLOW_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.fixture(scope="session")
def generator_folders(tmp_path_factory) -> dict[str, Path]:
    """{"beacon", "plain" and "gpt2": the folder of a tiny generator}; see generation_models.py."""
    from generation_models import save_beacon, save_gpt2, save_plain

    root = tmp_path_factory.mktemp("generators")
    for name, save in (("beacon", save_beacon), ("plain", save_plain), ("gpt2", save_gpt2)):
        save(root / name)
    return {name: root / name for name in ("beacon", "plain", "gpt2")}


@pytest.fixture(scope="session")
def beacon_folder(generator_folders) -> Path:
    """A tiny Activation Beacon checkpoint with a tokenizer and a chat template."""
    return generator_folders["beacon"]


@pytest.fixture(scope="session")
def plain_folder(generator_folders) -> Path:
    """A tiny Llama with the same tokenizer."""
    return generator_folders["plain"]


@pytest.fixture(scope="module")
def beacon(beacon_folder):
    from bge_integrations import load_generator

    with load_generator(beacon_folder) as generator:
        yield generator


@pytest.fixture(scope="module")
def plain(plain_folder):
    from bge_integrations import load_generator

    with load_generator(plain_folder) as generator:
        yield generator


@pytest.fixture(params=["plain", "beacon"])
def generator(request):
    """Each kind of generator."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def hub_environment(tmp_path_factory, beacon_folder) -> dict[str, str]:
    """Environment variables for a process whose hub cache has the tiny checkpoints under the published names."""
    home = tmp_path_factory.mktemp("hf")
    _add_to_cache(home, "namespace-Pt/beacon-qwen-2-7b-instruct", beacon_folder)
    for name, (checkpoint, max_seq_length) in PUBLISHED.items():
        snapshot = _add_to_cache(home, f"BAAI/{name}", CHECKPOINTS / checkpoint)
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
    """Return a function that runs code in its own process and an empty folder, with the tiny checkpoints cached."""

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


@pytest.fixture(scope="session")
def forking_process(hub_environment) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(TESTS / "docs" / "forking.py")]
    with subprocess.Popen(
        command, env=hub_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.fixture
def run_forked(forking_process, tmp_path, tmp_path_factory) -> Callable[..., None]:
    """Like `run_as_user`, but the process has imported torch and the frameworks, which takes most of the time."""
    output = tmp_path_factory.mktemp("output") / "output"

    def run(code: str, *arguments: str) -> None:
        output.touch()
        program = {"code": code, "arguments": arguments, "folder": str(tmp_path), "output": str(output)}
        forking_process.stdin.write(json.dumps(program) + "\n")
        forking_process.stdin.flush()
        assert forking_process.stdout.readline() == "0\n", output.read_text()

    return run


def _add_to_cache(home: Path, name: str, folder: Path) -> Path:
    """Link a checkpoint's files into a hub cache, and return the folder of the links."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    return snapshot


def _add_sentence_transformers_files(folder: Path, max_seq_length: int) -> None:
    """Add CLS pooling and normalisation in the layout of the published repositories."""
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
def clip():
    with load_embedder(CLIP) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def reranker():
    with load_reranker(RERANKER) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A `bge serve` for the tests in tests/serving; see `demo_server` there."""
    from servers import demo_server

    with demo_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def api(server):
    """A client of `server`."""
    import httpx

    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def embedder_runs() -> dict[str, Any]:
    """FlagEmbedding's losses, gradients and training runs of embedders on the tiny checkpoints."""
    return json.loads((ORACLE / "training" / "embedder.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def training_rows(embedder_runs) -> list[TrainingRow]:
    """The four queries of these runs, each with a positive, three negatives and teacher scores."""
    return [
        TrainingRow(
            group["query"],
            (group["positive"],),
            tuple(group["negatives"]),
            pos_scores=tuple(group["teacher_scores"][:1]),
            neg_scores=tuple(group["teacher_scores"][1:]),
        )
        for group in embedder_runs["groups"]
    ]


@pytest.fixture(scope="session")
def without_dropout(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that returns a copy of a tiny checkpoint, under its name, without dropout."""
    root = tmp_path_factory.mktemp("checkpoints")

    def copy(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            shutil.copytree(CHECKPOINTS / name, folder)
            config = json.loads((folder / "config.json").read_text("utf-8"))
            config |= {key: 0.0 for key in config if key.endswith(("dropout", "dropout_prob")) and config[key]}
            (folder / "config.json").write_text(json.dumps(config), "utf-8")
        return folder

    return copy


def assert_close(actual, expected, tolerance: float = 1e-5) -> None:
    """Assert that the largest difference is at most `tolerance` times the largest expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    difference = np.abs(actual - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    assert difference <= tolerance, f"relative difference {difference:.2e}"


def wait_until(condition, seconds=30):
    """Return once the condition holds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
