"""Many callers at once, faults, cancellation, closing and forks: no hangs, no wrong results."""

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from conftest import ALLOW_SIGINT, BASE, M3, RERANKER, assert_close, wait_until
from packaging.version import Version

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core import residency, runtime
from bge_integrations.core.residency import models_in_memory
from bge_integrations.core.runner import ModelRunner
from bge_integrations.errors import (
    ClosedError,
    InvalidInputError,
    NonFiniteError,
    OutOfMemoryError,
    PerformanceWarning,
)
from bge_integrations.models.encoder_model import EncoderModel
from bge_integrations.models.interface import SequenceOutput

THREADS = 64


def in_threads(work, count=THREADS):
    """Run work(i) in `count` threads that start together; return their results in order."""
    start = threading.Barrier(count)

    def one(i):
        start.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture
def held_batch(monkeypatch):
    """Block all batches until `go_on` is set; `entered` is set when the first one starts."""
    run, held = ModelRunner.run, SimpleNamespace(entered=threading.Event(), go_on=threading.Event())

    def hold(runner, batch, between_layers):
        held.entered.set()
        assert held.go_on.wait(60)
        return run(runner, batch, between_layers)

    monkeypatch.setattr(ModelRunner, "run", hold)
    yield held
    held.go_on.set()


def some_texts(i):
    """Return a few texts of different lengths that differ for each i."""
    return [f"text {i} number {j} " + "word " * ((i * 7 + j * 13) % 40) for j in range(1 + i % 5)]


def test_64_threads_get_the_same_vectors_as_one(m3):
    options = {"sparse": True, "multi_vector": True}
    alone = [m3.encode(some_texts(i), **options) for i in range(THREADS)]
    together = in_threads(lambda i: m3.encode(some_texts(i), **options))
    for expected, found in zip(alone, together, strict=True):
        assert_close(found.dense, expected.dense)
        assert found.sparse.indices.tolist() == expected.sparse.indices.tolist()
        assert_close(found.sparse.values, expected.sparse.values)
        assert_close(found.multi_vector.vectors, expected.multi_vector.vectors)


def test_64_threads_rerank_and_embed_with_different_settings(base, reranker):
    with load_embedder(BASE, pooling="mean", truncate_dim=16) as mean:

        def work(i):
            texts = some_texts(i)
            if i % 3 == 0:
                return reranker.score([("query", text) for text in texts])
            return (
                (base if i % 3 == 1 else mean)
                .encode(texts, kind="query", max_length=20 + i, on_truncate="ignore")
                .dense
            )

        alone = [work(i) for i in range(THREADS)]
        together = in_threads(work)
        for expected, found in zip(alone, together, strict=True):
            assert_close(found, expected)


def test_concurrent_callers_share_batches(base, monkeypatch):
    sizes = []
    run = ModelRunner.run

    def wait_for_the_others(runner, batch, between_layers):
        sizes.append(len(batch))
        if len(sizes) == 1:  # the other callers queue while the first batch is computed
            wait_until(lambda: len(batch) + runtime.statistics()["cpu"].queued_sequences == THREADS)
        return run(runner, batch, between_layers)

    monkeypatch.setattr(ModelRunner, "run", wait_for_the_others)
    in_threads(lambda i: base.encode([f"query {i}"]))
    assert sum(sizes) == THREADS
    assert len(sizes) <= 2


async def test_256_tasks_get_the_same_vectors_as_one_and_the_loop_is_not_blocked(base):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    found = await asyncio.gather(*(base.aencode([f"text {i}"]) for i in range(256)))
    bulk = await base.aencode([f"bulk {i} " + "word " * 100 for i in range(1500)])
    ticker.cancel()
    assert ticks > 20
    assert_close(np.concatenate([out.dense for out in found]), base.encode([f"text {i}" for i in range(256)]).dense)
    assert bulk.dense.shape == (1500, 64)


def test_one_callers_bad_text_affects_no_other_caller(base):
    expected = base.encode(["fine"]).dense

    def work(i):
        if i % 4:
            return base.encode(["fine"]).dense
        with pytest.raises(InvalidInputError):
            base.encode(["fine", None])
        return expected

    for found in in_threads(work):
        assert_close(found, expected)


async def test_long_async_calls_leave_the_applications_threads_alone(base, held_batch):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    texts = [f"{i} of many texts" for i in range(9000)]
    bulk = asyncio.create_task(base.aencode(texts))
    assert await asyncio.to_thread(held_batch.entered.wait, 30)
    assert await asyncio.to_thread(int, "1") == 1  # although the bulk call is waiting in a thread
    held_batch.go_on.set()
    await base.aencode(["a word " * 700], on_truncate="ignore")  # long enough to be tokenised outside the event loop
    assert not bulk.done()
    bulk.cancel()


async def test_a_cancelled_await_releases_its_work(base, held_batch):
    task = asyncio.create_task(base.aencode([f"{i} " + "word " * 200 for i in range(3000)]))
    assert await asyncio.to_thread(held_batch.entered.wait, 30)
    task.cancel()
    held_batch.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_close((await base.aencode(["after"])).dense, base.encode(["after"]).dense)


def test_weights_that_are_not_finite_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    state = load_file(folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"][50:] = float("nan")
    save_file(state, folder / "model.safetensors")
    for dtype in ("float32", "bfloat16"):
        with load_embedder(folder, dtype=dtype) as embedder, pytest.raises(NonFiniteError):
            embedder.encode(["retrieval of documents, 12345 words"])


def overflowing(monkeypatch, overflows):
    """Make bfloat16 models return infinity for sequences that satisfy `overflows`; return the batch sizes they run."""
    run, runs = EncoderModel.run, []

    def overflow(model, sequences, spec, between_layers):
        outputs = run(model, sequences, spec, between_layers)
        if model.placement.dtype != "bfloat16":
            return outputs
        runs.append(len(sequences))
        infinite = SequenceOutput(dense=np.full(64, np.inf, np.float32))
        return [infinite if overflows(each) else output for each, output in zip(sequences, outputs, strict=True)]

    monkeypatch.setattr(EncoderModel, "run", overflow)
    return runs


def test_an_overflow_in_half_precision_is_recomputed_in_float32_with_a_warning(m3, monkeypatch, caplog):
    overflowing(monkeypatch, lambda sequence: len(sequence) > 20)
    texts = ["a text", "long " * 30]
    with load_embedder(M3, dtype="bfloat16") as half:
        before = runtime.statistics()["cpu"].recomputed_sequences
        with pytest.warns(PerformanceWarning, match="float32") as caught:
            vectors = half.encode(texts).dense
        assert [each.filename for each in caught] == [__file__]
        assert runtime.statistics()["cpu"].recomputed_sequences == before + 1
        assert "recomputed in float32" in caplog.text
    assert_close(vectors[1], m3.encode(texts).dense[1])
    assert_close(vectors[0], m3.encode(texts).dense[0], 0.02)


def test_the_float32_model_stays_as_long_as_the_half_precision_one(monkeypatch, tmp_path):
    folder = shutil.copytree(M3, tmp_path / "bge-m3")
    overflowing(monkeypatch, lambda sequence: True)
    loads = []
    load_model = residency.load_model
    monkeypatch.setattr(residency, "load_model", lambda *key: loads.append(key) or load_model(*key))

    def dtypes():
        return [key.dtype for key in models_in_memory() if key.folder == folder.resolve()]

    with load_embedder(folder, dtype="bfloat16") as half:
        for _ in range(3):
            with pytest.warns(PerformanceWarning):
                half.encode(["a text"])
        assert dtypes() == ["bfloat16", "float32"]
        assert len(loads) == 2
    assert dtypes() == []


def test_other_callers_are_served_while_float32_weights_are_read(base, monkeypatch, tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    reading, may_read, load_model = threading.Event(), threading.Event(), residency.load_model

    def read_slowly(folder, family, device, dtype, *rest):
        if dtype == "float32":
            reading.set()
            assert may_read.wait(60)
        return load_model(folder, family, device, dtype, *rest)

    overflowing(monkeypatch, lambda sequence: True)
    monkeypatch.setattr(residency, "load_model", read_slowly)
    warnings.simplefilter("ignore", PerformanceWarning)
    with load_embedder(folder, dtype="bfloat16") as half, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(half.encode, ["a text"])
        assert reading.wait(60)
        assert base.encode(["another caller"]).dense.shape == (1, 64)
        assert not waiting.done()
        may_read.set()
        assert_close(waiting.result(60).dense, base.encode(["a text"]).dense)


def test_without_memory_for_float32_only_the_texts_that_overflow_fail(monkeypatch):
    def refuse(key):
        raise OutOfMemoryError("float32 takes 30 GB")

    with load_embedder(M3, dtype="bfloat16") as half:
        runs = overflowing(monkeypatch, lambda sequence: len(sequence) > 20)
        monkeypatch.setattr(residency, "acquire", refuse)
        with pytest.raises(NonFiniteError, match="30 GB"):
            half.encode(["a text", "another one", "long " * 30])
        assert len(runs) == 1
        assert half.encode(["a text"]).dense.shape == (1, 64)


def test_one_copy_of_the_weights_is_shared_and_freed_with_its_last_user(tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    embedders = in_threads(lambda i: load_embedder(folder, query_instruction=str(i)), 16)
    models = {id(embedder._session.model) for embedder in embedders}
    assert len(models) == 1
    weights = weakref.ref(embedders[0]._session.model._encoder.token_embeddings)
    embedders[0].encode(["used"])
    for embedder in embedders[1:]:
        embedder.close()
    assert weights() is not None
    del embedder, embedders  # the last embedder is dropped without being closed
    gc.collect()
    assert weights() is None
    assert all(key.folder != folder.resolve() for key in models_in_memory())


def test_devices_and_dtypes_are_separate_copies(base):
    with load_embedder(BASE, dtype="bfloat16") as half:
        assert half._session.model is not base._session.model


def test_replaced_weights_are_loaded_again(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    with load_embedder(folder) as old:
        before = old.encode(["text"]).dense
        state = load_file(folder / "model.safetensors")
        save_file({name: tensor * 1.1 for name, tensor in state.items()}, tmp_path / "new")
        (tmp_path / "new").replace(folder / "model.safetensors")  # overwriting the file in place would change `old`
        with load_embedder(folder) as new:
            assert np.abs(new.encode(["text"]).dense - before).max() > 1e-4
        assert_close(old.encode(["text"]).dense, before)


def test_closing_during_work_lets_the_work_finish(base, held_batch):
    texts = [f"{i} " + "word " * 100 for i in range(400)]
    embedder = load_embedder(BASE)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: embedder.encode(texts).dense)
        assert held_batch.entered.wait(30)
        embedder.close()
        held_batch.go_on.set()
        expected = base.encode(texts).dense
        assert_close(running.result(60), expected)
    with pytest.raises(ClosedError):
        embedder.encode(["after"])


def test_opening_and_closing_from_64_threads(reranker):
    expected = reranker.score([("q", "p")])

    def work(_):
        with load_reranker(RERANKER) as own:
            return own.score([("q", "p")])

    for found in in_threads(work):
        assert_close(found, expected)


def _encode_in_child(queue, embedder):
    queue.put((os.getpid(), embedder.encode(["after the fork"] * 3 + [f"{i}" for i in range(50)]).dense))


def test_a_forked_child_can_encode(base):
    expected = base.encode(["after the fork"] * 3 + [f"{i}" for i in range(50)]).dense
    context = multiprocessing.get_context("fork")
    busy = threading.Thread(target=lambda: base.encode([f"{i} " + "word " * 100 for i in range(900)]))
    busy.start()  # the parent forks while its worker is busy
    queue = context.Queue()
    children = [context.Process(target=_encode_in_child, args=(queue, base)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in children:
        pid, found = queue.get(timeout=60)
        assert pid != os.getpid()
        assert_close(found, expected)
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    busy.join(60)
    assert_close(base.encode(["after the fork"]).dense, expected[:1])


def _load_and_score_in_child(queue):
    with load_reranker(RERANKER, dtype="bfloat16") as loaded:
        loaded.score([("q", "p" * 50)] * 2)
    with load_reranker(RERANKER) as loaded:
        queue.put(loaded.score([("q", f"p {i}") for i in range(500)], normalize=True))


def test_a_forked_child_can_load_models_that_its_parent_has_loaded(reranker):
    expected = reranker.score([("q", f"p {i}") for i in range(500)], normalize=True)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_load_and_score_in_child, args=(queue,))
    child.start()
    assert_close(queue.get(timeout=60), expected)
    child.join(30)
    assert child.exitcode == 0


def test_a_broken_progress_bar_does_not_stop_the_work(base, monkeypatch):
    class Broken:
        written = 0

        def write(self, text):
            Broken.written += 1
            if Broken.written > 2:
                raise BrokenPipeError

        def flush(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Broken())
        found = base.encode([f"text {i} " * 20 for i in range(3000)], show_progress=True)
    assert found.dense.shape == (3000, 64)
    assert base.encode(["after"]).dense.shape == (1, 64)


def run_script(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(
    Version(tokenizers.__version__) < Version("0.23.2"), reason="older tokenizers abort the interpreter at its end"
)
def test_the_interpreter_exits_cleanly_with_work_in_the_queue():
    done = run_script(
        "import threading\n"
        "from bge_integrations import load_embedder\n"
        f"e = load_embedder({BASE!r})\n"
        "texts = [f'{i} ' + 'word ' * 300 for i in range(20000)]\n"
        "threading.Thread(target=lambda: e.encode(texts), daemon=True).start()\n"
        "e.encode(['a'])\n"
        "print('done')"
    )
    assert done.stdout == "done\n"
    assert done.returncode == 0
    assert "Fatal" not in done.stderr


def test_importing_the_package_loads_neither_torch_nor_a_framework():
    done = run_script(
        "import sys, bge_integrations\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'langchain_core', 'llama_index', 'chromadb'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(n for n in sys.modules if n.startswith('bge')))"
    )
    assert done.stdout == "[] ['bge_integrations']\n"


def test_the_core_loads_no_framework():
    done = run_script(
        "import sys\nfrom bge_integrations import load_embedder, load_reranker\nimport bge_integrations.scoring\n"
        f"load_embedder({BASE!r}).encode(['a'])\n"
        "print(sorted({'transformers', 'langchain_core', 'llama_index', 'chromadb'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n"


def test_ctrl_c_while_a_model_loads_ends_the_interpreter():
    code = """
import os, signal, threading, time, torch
from bge_integrations import load_embedder
from bge_integrations.core import residency

load_model = residency.load_model

def slowly(*arguments):
    threading.Timer(0.01, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        torch.randn(600, 600) @ torch.randn(600, 600)
    return load_model(*arguments)

residency.load_model = slowly
load_embedder("pocket")
"""
    command = [sys.executable, "-c", ALLOW_SIGINT + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
