"""Many callers at once, faults, cancellation, closing and forks: no hang, no wrong answer."""

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import tokenizers
import torch
from conftest import ALLOW_SIGINT, BASE, M3, RERANKER, assert_close
from packaging.version import Version

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core.call import Call
from bge_integrations.core.residency import ModelLane, resident_models
from bge_integrations.core.scheduler import Item, Scheduler
from bge_integrations.errors import (
    ClosedError,
    ComputationError,
    InvalidInputError,
    NonFiniteError,
    OutOfMemoryError,
)
from bge_integrations.models.batch import TokenSequence

THREADS = 64


def in_threads(work, count=THREADS):
    """Run work(i) in `count` threads that start together; their results in order."""
    start = threading.Barrier(count)

    def one(i):
        start.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def some_texts(i):
    """A few texts of different lengths, different for each i."""
    return [f"text {i} number {j} " + "word " * ((i * 7 + j * 13) % 40) for j in range(1 + i % 5)]


def test_64_threads_get_the_numbers_of_one(m3):
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
    run = ModelLane.run

    def slow(lane, sequences, between_layers):
        sizes.append(len(sequences))
        time.sleep(0.05)  # while one batch is computed, the other callers queue
        return run(lane, sequences, between_layers)

    monkeypatch.setattr(ModelLane, "run", slow)
    in_threads(lambda i: base.encode([f"query {i}"]))
    assert sum(sizes) == THREADS
    assert len(sizes) < THREADS / 4


async def test_256_tasks_get_the_numbers_of_one_and_the_loop_runs_on(base):
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


def test_one_callers_bad_text_harms_nobody_else(base):
    expected = base.encode(["fine"]).dense

    def work(i):
        if i % 4:
            return base.encode(["fine"]).dense
        with pytest.raises(InvalidInputError):
            base.encode(["fine", None])
        return expected

    for found in in_threads(work):
        assert_close(found, expected)


class FaultyLane:
    """Echoes the first token id of each sequence, in three layers, and fails as these ids say."""

    token_budget = 64
    BROKEN, TOO_LARGE, NOT_FINITE = 1001, 1002, 1003

    def __init__(self):
        self.batches, self.finished = [], []
        self.layers = 3
        self.gate = threading.Event()

    def run(self, sequences, between_layers):
        self.gate.wait(10)
        firsts = [int(sequence.ids[0]) for sequence in sequences]
        self.batches.append(firsts)
        for _ in range(self.layers - 1):
            between_layers()
        self.finished.append(firsts)
        if self.BROKEN in firsts:
            raise RuntimeError("broken")
        if self.TOO_LARGE in firsts or sum(map(len, sequences)) > 40:
            raise OutOfMemoryError("no memory")
        return [NonFiniteError("not finite") if first == self.NOT_FINITE else first for first in firsts]


def submit(scheduler, lane, *firsts, length=4, urgent=True):
    call = Call(len(firsts))
    sequences = [TokenSequence(np.full(length, first, np.int32)) for first in firsts]
    call.expect(len(firsts))
    scheduler.submit(lane, [Item(sequence, call, i) for i, sequence in enumerate(sequences)], urgent)
    return call


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.stop()


def test_a_failing_batch_fails_exactly_its_callers(scheduler):
    lane = FaultyLane()
    first = submit(scheduler, lane, 1)  # holds the worker while the others queue
    time.sleep(0.05)
    inside = [submit(scheduler, lane, 2, 3, length=16), submit(scheduler, lane, FaultyLane.BROKEN, length=16)]
    other = [submit(scheduler, lane, i, length=40) for i in range(4, 8)]  # 40 tokens each: batches of their own
    lane.gate.set()
    assert first.future.result(10) == [1]
    for call in inside:
        with pytest.raises(ComputationError, match="broken") as caught:
            call.future.result(10)
        assert isinstance(caught.value.__cause__, RuntimeError)
    assert inside[0].future.exception() is not inside[1].future.exception()
    assert [call.future.result(10) for call in other] == [[4], [5], [6], [7]]


def test_a_lane_that_loses_a_result_fails_its_callers_and_not_the_worker(scheduler):
    lane = FaultyLane()
    lane.gate.set()
    whole = lane.run
    lane.run = lambda sequences, between_layers: whole(sequences, between_layers)[1:]
    with pytest.raises(ComputationError):
        submit(scheduler, lane, 1, 2).future.result(10)
    lane.run = whole
    assert submit(scheduler, lane, 3).future.result(10) == [3]


def test_out_of_memory_halves_the_batch_until_it_fits(scheduler):
    lane = FaultyLane()
    lane.gate.set()
    assert submit(scheduler, lane, *range(16)).future.result(10) == list(range(16))  # 64 tokens, 40 fit
    assert max(map(len, lane.batches)) == 16
    assert lane.batches[-1] == list(range(8, 16))


def test_what_did_not_fit_is_freed_before_its_halves_are_computed(scheduler):
    lane, held, alive = FaultyLane(), [], []
    lane.gate.set()
    whole = lane.run

    def run(sequences, between_layers):
        alive.extend(tensor() is not None for tensor in held)
        tensor = torch.ones(8)
        held.append(weakref.ref(tensor))
        return whole(sequences, between_layers)

    lane.run = run
    submit(scheduler, lane, *range(32)).future.result(10)  # two batches of 64 tokens, of which 40 fit
    assert len(held) == 6
    assert not any(alive)
    with pytest.raises(OutOfMemoryError):
        submit(scheduler, lane, FaultyLane.TOO_LARGE).future.result(10)
    assert held[-1]() is None


def test_a_text_too_large_alone_fails_only_its_caller(scheduler):
    lane = FaultyLane()
    holder = submit(scheduler, lane, 1)
    time.sleep(0.05)
    large, others = submit(scheduler, lane, FaultyLane.TOO_LARGE), [submit(scheduler, lane, i) for i in range(5)]
    lane.gate.set()
    with pytest.raises(OutOfMemoryError, match="smaller max_length"):
        large.future.result(10)
    assert [call.future.result(10) for call in others] == [[i] for i in range(5)]
    assert holder.future.result(10) == [1]


def test_a_text_that_is_not_finite_fails_only_its_caller(scheduler):
    lane = FaultyLane()
    bad, good = submit(scheduler, lane, FaultyLane.NOT_FINITE), submit(scheduler, lane, 5)
    lane.gate.set()
    with pytest.raises(NonFiniteError):
        bad.future.result(10)
    assert good.future.result(10) == [5]


def test_cancelled_work_is_not_computed(scheduler):
    lane = FaultyLane()
    holder = submit(scheduler, lane, 1)
    time.sleep(0.05)
    gone, waiting = submit(scheduler, lane, 2), submit(scheduler, lane, 3)
    gone.cancel()
    lane.gate.set()
    assert waiting.future.result(10) == [3]
    assert holder.future.result(10) == [1]
    assert 2 not in list(chain.from_iterable(lane.batches))


def test_urgent_work_passes_ahead_and_bulk_work_does_not_starve(scheduler):
    lane = FaultyLane()
    holder = submit(scheduler, lane, 0)
    time.sleep(0.05)
    bulk = submit(scheduler, lane, *range(100, 104), length=40, urgent=False)
    urgent = [submit(scheduler, lane, i, length=40) for i in range(1, 13)]
    lane.gate.set()
    for call in [holder, bulk, *urgent]:
        call.future.result(10)
    # one of the urgent ones first, then one between any two of the three layers of each bulk text
    assert list(chain(*lane.batches)) == [0, 100, 1, 2, 3, 101, 4, 5, 6, 102, 7, 8, 9, 103, 10, 11, 12]
    assert list(chain(*lane.finished)) == [0, 1, 2, 100, 3, 4, 5, 101, 6, 7, 8, 102, 9, 10, 11, 103, 12]


def test_a_deep_model_gets_on_with_its_bulk_batch_while_large_urgent_ones_wait(scheduler):
    lane = FaultyLane()
    lane.layers = 24
    holder = submit(scheduler, lane, 0)
    time.sleep(0.05)
    calls = [submit(scheduler, lane, 100, length=40, urgent=False)]
    calls += [submit(scheduler, lane, i, length=40) for i in range(1, 31)]
    lane.gate.set()
    for call in [holder, *calls]:
        call.future.result(10)
    order = list(chain(*lane.finished))
    assert 1 <= order.index(100) <= 6  # about two thirds of the work go to urgent ones, not 24 parts of 25


def test_calls_in_a_lane_take_turns(scheduler):
    lane = FaultyLane()
    holder = submit(scheduler, lane, 0)
    time.sleep(0.05)
    long = submit(scheduler, lane, *range(100, 120), length=40, urgent=False)
    short = submit(scheduler, lane, 1, 2, length=40, urgent=False)
    lane.gate.set()
    for call in (holder, long, short):
        call.future.result(10)
    assert list(chain(*lane.batches))[:6] == [0, 100, 1, 101, 2, 102]


def test_an_urgent_batch_that_does_not_fit_beside_a_bulk_one_waits_for_its_end(scheduler):
    lane, depth = FaultyLane(), [0]
    whole = lane.run

    def run(sequences, between_layers):
        depth[0] += 1
        try:
            if depth[0] > 1:
                raise OutOfMemoryError("there is room for one batch")
            return whole(sequences, between_layers)
        finally:
            depth[0] -= 1

    lane.run = run
    bulk = submit(scheduler, lane, *range(100, 103), length=40, urgent=False)
    time.sleep(0.05)
    urgent = [submit(scheduler, lane, i) for i in range(1, 6)]
    lane.gate.set()
    assert bulk.future.result(10) == [100, 101, 102]
    assert [call.future.result(10) for call in urgent] == [[i] for i in range(1, 6)]
    assert lane.finished[:2] == [[100], [1, 2, 3, 4, 5]]


async def test_long_async_calls_leave_the_applications_threads_alone(base):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    texts = [f"{i} of many texts" for i in range(9000)]
    bulk = asyncio.create_task(base.aencode(texts))
    await asyncio.sleep(0.05)
    assert await asyncio.to_thread(int, "1") == 1
    await base.aencode(["a word " * 700], on_truncate="ignore")  # too many characters for the event loop
    assert not bulk.done()
    bulk.cancel()


def test_an_urgent_batch_that_fails_between_layers_harms_no_bulk(scheduler):
    lane = FaultyLane()
    bulk = submit(scheduler, lane, 100, length=40, urgent=False)
    time.sleep(0.05)
    broken, good = submit(scheduler, lane, FaultyLane.BROKEN, length=64), submit(scheduler, lane, 1)
    lane.gate.set()
    assert bulk.future.result(10) == [100]
    assert good.future.result(10) == [1]
    with pytest.raises(ComputationError, match="broken"):
        broken.future.result(10)
    assert list(chain(*lane.finished))[-1] == 100


def test_a_batch_that_nobody_waits_for_ends_at_its_next_layer(scheduler):
    lane = FaultyLane()
    gone, partner = submit(scheduler, lane, 1, length=40), submit(scheduler, lane, 2, length=40)
    time.sleep(0.05)
    gone.cancel()
    lane.gate.set()
    assert partner.future.result(10) == [2]
    assert lane.batches == [[1], [2]]
    assert lane.finished == [[2]]


def test_stopping_fails_what_waits_and_refuses_more():
    scheduler, lane = Scheduler(), FaultyLane()
    running = submit(scheduler, lane, 1)
    time.sleep(0.05)
    waiting = submit(scheduler, lane, 2, length=64)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    with pytest.raises(ClosedError):
        waiting.future.result(10)
    lane.gate.set()
    stopper.join(10)
    assert running.future.result(10) == [1]
    with pytest.raises(ClosedError):
        submit(scheduler, lane, 3)


async def test_a_cancelled_await_frees_its_hold(base):
    task = asyncio.create_task(base.aencode([f"{i} " + "word " * 200 for i in range(3000)]))
    await asyncio.sleep(0.2)
    task.cancel()
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
        with load_embedder(folder, dtype=dtype) as embedder, pytest.raises(NonFiniteError, match="damaged"):
            embedder.encode(["retrieval of documents, 12345 words"])


def test_what_overflows_in_half_precision_is_computed_again_in_float32(m3, monkeypatch):
    """The half-precision model is made to fail; the float32 one must answer."""
    from bge_integrations.models.model import EncoderModel, TextOutput

    compute = EncoderModel.__call__

    def overflow(model, batch, *arguments):
        outputs = compute(model, batch, *arguments)
        if model.dtype == torch.bfloat16:
            outputs[0] = TextOutput(dense=np.full(64, np.inf, np.float32))
        return outputs

    monkeypatch.setattr(EncoderModel, "__call__", overflow)
    with load_embedder(M3, dtype="bfloat16") as half:
        before = len(resident_models())
        found = half.encode(["a text"]).dense
        assert len(resident_models()) == before
    assert_close(found, m3.encode(["a text"]).dense)


def test_without_memory_for_float32_only_the_texts_that_overflow_fail(m3, monkeypatch):
    from bge_integrations.core import residency
    from bge_integrations.models.model import EncoderModel, TextOutput

    compute, batches = EncoderModel.__call__, []

    def overflow(model, batch, *arguments):
        batches.append(batch.lengths)
        infinite = TextOutput(dense=np.full(64, np.inf, np.float32))
        outputs = zip(batch.lengths, compute(model, batch, *arguments), strict=True)
        return [infinite if length > 20 else output for length, output in outputs]

    def lease(key):
        raise OutOfMemoryError("float32 takes 30 GB")

    with load_embedder(M3, dtype="bfloat16") as half:
        monkeypatch.setattr(EncoderModel, "__call__", overflow)
        monkeypatch.setattr(residency, "lease", lease)
        with pytest.raises(NonFiniteError, match=r"there is no memory \(float32 takes 30 GB\)"):
            half.encode(["a text", "another one", "long " * 30])
        assert len(batches) == 1
        assert half.encode(["a text"]).dense.shape == (1, 64)


def test_one_copy_of_the_weights_is_shared_and_freed_with_its_last_holder(tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    embedders = in_threads(lambda i: load_embedder(folder, query_instruction=str(i)), 16)
    models = {id(embedder._session.model) for embedder in embedders}
    assert len(models) == 1
    weights = weakref.ref(embedders[0]._session.model._encoder.words)
    embedders[0].encode(["used"])
    for embedder in embedders[1:]:
        embedder.close()
    assert weights() is not None
    del embedder, embedders  # the last holder is dropped without being closed
    gc.collect()
    assert weights() is None
    assert all(key.folder != folder.resolve() for key in resident_models())


def test_devices_and_dtypes_are_separate_copies(base):
    with load_embedder(BASE, dtype="bfloat16") as half:
        assert half._session.model is not base._session.model


def test_a_folder_written_anew_is_loaded_anew(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    with load_embedder(folder) as old:
        before = old.encode(["text"]).dense
        state = load_file(folder / "model.safetensors")
        save_file({name: tensor * 1.1 for name, tensor in state.items()}, tmp_path / "new")
        (tmp_path / "new").replace(folder / "model.safetensors")  # what is overwritten in place changes under the old
        with load_embedder(folder) as new:
            assert np.abs(new.encode(["text"]).dense - before).max() > 1e-4
        assert_close(old.encode(["text"]).dense, before)


def test_closing_during_work_lets_the_work_finish(base):
    texts = [f"{i} " + "word " * 100 for i in range(400)]
    expected = base.encode(texts).dense
    embedder = load_embedder(BASE)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: embedder.encode(texts).dense)
        time.sleep(0.05)
        embedder.close()
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


def test_a_forked_child_starts_afresh(base):
    expected = base.encode(["after the fork"] * 3 + [f"{i}" for i in range(50)]).dense
    context = multiprocessing.get_context("fork")
    busy = threading.Thread(target=lambda: base.encode([f"{i} " + "word " * 100 for i in range(900)]))
    busy.start()  # the parent's worker is at work while it forks
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


def test_a_forked_child_may_load_models_though_its_parent_has(reranker):
    expected = reranker.score([("q", f"p {i}") for i in range(500)], normalize=True)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_load_and_score_in_child, args=(queue,))
    child.start()
    assert_close(queue.get(timeout=60), expected)
    child.join(30)
    assert child.exitcode == 0


def test_a_progress_bar_that_breaks_does_not_stop_the_work(base, monkeypatch):
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


def test_a_worker_that_could_not_start_is_tried_again(scheduler, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    lane = FaultyLane()
    lane.gate.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            submit(scheduler, lane, 1)
    assert submit(scheduler, lane, 2).future.result(10) == [2]
    assert lane.batches == [[2]]


def run_script(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(
    Version(tokenizers.__version__) < Version("0.23.2"), reason="older tokenizers abort the interpreter at its end"
)
def test_the_interpreter_ends_with_work_in_the_queue():
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


def test_an_interpreter_that_is_interrupted_while_it_loads_ends_as_asked():
    code = """
import os, signal, threading, time, torch
from bge_integrations import load_embedder
from bge_integrations.core import residency

load_model = residency.load_model

def slowly(*arguments):
    end = time.monotonic() + 1
    while time.monotonic() < end:
        torch.randn(600, 600) @ torch.randn(600, 600)
    return load_model(*arguments)

residency.load_model = slowly
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
load_embedder("pocket")
"""
    command = [sys.executable, "-c", ALLOW_SIGINT + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
