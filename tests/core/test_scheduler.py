"""The scheduler: batches, failures, cancellation, fairness, the queue limit, and the counters."""

import pickle
import threading
import time
import weakref
from dataclasses import asdict
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import wait_until

from bge_integrations.core import runtime
from bge_integrations.core.batch_queue import QueuedSequence
from bge_integrations.core.request import PendingCall
from bge_integrations.core.scheduler import Scheduler
from bge_integrations.errors import (
    ClosedError,
    ComputationError,
    InvalidInputError,
    NonFiniteError,
    OutOfMemoryError,
    OverloadedError,
)
from bge_integrations.models.interface import TokenSequence


class FaultyRunner:
    """Return the first token id of each sequence after three layers; some ids make it fail."""

    BROKEN, TOO_LARGE, NOT_FINITE = 1001, 1002, 1003

    def __init__(self):
        self.batches, self.finished = [], []
        self.layers = 3
        self.entered, self.gate = threading.Event(), threading.Event()

    def run(self, batch, between_layers):
        self.entered.set()
        self.gate.wait(10)
        firsts = [int(queued.sequence.ids[0]) for queued in batch]
        self.batches.append(firsts)
        for _ in range(self.layers - 1):
            between_layers()
        self.finished.append(firsts)
        if self.BROKEN in firsts:
            raise RuntimeError("broken")
        if self.TOO_LARGE in firsts or sum(len(queued.sequence) for queued in batch) > 40:
            raise OutOfMemoryError("no memory")
        for queued, first in zip(batch, firsts, strict=True):
            if first == self.NOT_FINITE:
                queued.call.fail(NonFiniteError("not finite"))
            else:
                queued.call.deliver(queued.index, first)


def submit(scheduler, runner, *firsts, length=4, urgent=True, is_new=True):
    call = PendingCall(len(firsts))
    call.expect(len(firsts), len(firsts))
    now = time.perf_counter()
    sequences = [TokenSequence(np.full(length, first, np.int32)) for first in firsts]
    portion = [QueuedSequence(sequence, call, i, now) for i, sequence in enumerate(sequences)]
    scheduler.submit(runner, portion, urgent=urgent, is_new=is_new)
    return call


@pytest.fixture
def policy():
    """Use batches of 64 tokens, and restore the configuration after the test."""
    before = runtime.configure(cpu_batch_tokens=64)
    yield
    runtime.configure(**vars(before))


@pytest.fixture
def scheduler(policy):
    scheduler = Scheduler("test")
    yield scheduler
    scheduler.stop()


def test_a_failing_batch_fails_exactly_its_callers(scheduler):
    runner = FaultyRunner()
    first = submit(scheduler, runner, 1)  # keeps the worker busy while the others queue
    assert runner.entered.wait(10)
    inside = [submit(scheduler, runner, 2, 3, length=16), submit(scheduler, runner, FaultyRunner.BROKEN, length=16)]
    other = [submit(scheduler, runner, i, length=40) for i in range(4, 8)]  # 40 tokens each: one per batch
    runner.gate.set()
    assert first.future.result(10) == [1]
    for call in inside:
        with pytest.raises(ComputationError, match="broken") as caught:
            call.future.result(10)
        assert isinstance(caught.value.__cause__, RuntimeError)
    assert inside[0].future.exception() is not inside[1].future.exception()
    assert [call.future.result(10) for call in other] == [[4], [5], [6], [7]]


def test_a_runner_that_loses_a_result_fails_its_callers_and_not_the_worker(scheduler):
    runner = FaultyRunner()
    runner.gate.set()
    whole = runner.run
    runner.run = lambda batch, between_layers: whole(batch[1:], between_layers) or list(zip(batch, [1], strict=True))
    with pytest.raises(ComputationError):
        submit(scheduler, runner, 1, 2).future.result(10)
    runner.run = whole
    assert submit(scheduler, runner, 3).future.result(10) == [3]


def test_out_of_memory_halves_the_batch_until_it_fits(scheduler):
    runner = FaultyRunner()
    runner.gate.set()
    assert submit(scheduler, runner, *range(16)).future.result(10) == list(range(16))  # 64 tokens, but only 40 fit
    assert max(map(len, runner.batches)) == 16
    assert runner.batches[-1] == list(range(8, 16))


def test_a_batch_that_did_not_fit_is_freed_before_its_halves_are_computed(scheduler):
    runner, held, alive = FaultyRunner(), [], []
    runner.gate.set()
    whole = runner.run

    def run(batch, between_layers):
        alive.extend(tensor() is not None for tensor in held)
        tensor = torch.ones(8)
        held.append(weakref.ref(tensor))
        return whole(batch, between_layers)

    runner.run = run
    submit(scheduler, runner, *range(32)).future.result(10)  # two batches of 64 tokens, but only 40 fit
    assert len(held) == 6
    assert not any(alive)
    with pytest.raises(OutOfMemoryError):
        submit(scheduler, runner, FaultyRunner.TOO_LARGE).future.result(10)
    assert held[-1]() is None


def test_a_text_too_large_alone_fails_only_its_caller(scheduler):
    runner = FaultyRunner()
    holder = submit(scheduler, runner, 1)
    assert runner.entered.wait(10)
    large, others = submit(scheduler, runner, FaultyRunner.TOO_LARGE), [submit(scheduler, runner, i) for i in range(5)]
    runner.gate.set()
    with pytest.raises(OutOfMemoryError, match="max_length"):
        large.future.result(10)
    assert [call.future.result(10) for call in others] == [[i] for i in range(5)]
    assert holder.future.result(10) == [1]


def test_a_text_that_is_not_finite_fails_only_its_caller(scheduler):
    runner = FaultyRunner()
    bad, good = submit(scheduler, runner, FaultyRunner.NOT_FINITE), submit(scheduler, runner, 5)
    runner.gate.set()
    with pytest.raises(NonFiniteError):
        bad.future.result(10)
    assert good.future.result(10) == [5]


def test_cancelled_work_is_not_computed(scheduler):
    runner = FaultyRunner()
    holder = submit(scheduler, runner, 1)
    assert runner.entered.wait(10)
    gone, waiting = submit(scheduler, runner, 2), submit(scheduler, runner, 3)
    gone.cancel()
    runner.gate.set()
    assert waiting.future.result(10) == [3]
    assert holder.future.result(10) == [1]
    assert 2 not in list(chain.from_iterable(runner.batches))


def test_urgent_work_goes_first_and_bulk_work_does_not_starve(scheduler):
    runner = FaultyRunner()
    holder = submit(scheduler, runner, 0)
    assert runner.entered.wait(10)
    bulk = submit(scheduler, runner, *range(100, 104), length=40, urgent=False)
    urgent = [submit(scheduler, runner, i, length=40) for i in range(1, 13)]
    runner.gate.set()
    for call in [holder, bulk, *urgent]:
        call.future.result(10)
    # an urgent text runs between bulk texts, and one after each of a bulk text's first two layers
    assert list(chain(*runner.batches)) == [0, 100, 1, 2, 3, 101, 4, 5, 6, 102, 7, 8, 9, 103, 10, 11, 12]
    assert list(chain(*runner.finished)) == [0, 1, 2, 100, 3, 4, 5, 101, 6, 7, 8, 102, 9, 10, 11, 103, 12]


def test_a_deep_model_makes_progress_on_a_bulk_batch_while_urgent_ones_wait(scheduler):
    runner = FaultyRunner()
    runner.layers = 24
    holder = submit(scheduler, runner, 0)
    assert runner.entered.wait(10)
    calls = [submit(scheduler, runner, 100, length=40, urgent=False)]
    calls += [submit(scheduler, runner, i, length=40) for i in range(1, 31)]
    runner.gate.set()
    for call in [holder, *calls]:
        call.future.result(10)
    order = list(chain(*runner.finished))
    assert 1 <= order.index(100) <= 6  # urgent texts get about two thirds of the work, not 24/25


def test_calls_of_a_runner_take_turns(scheduler):
    runner = FaultyRunner()
    holder = submit(scheduler, runner, 0)
    assert runner.entered.wait(10)
    long = submit(scheduler, runner, *range(100, 120), length=40, urgent=False)
    short = submit(scheduler, runner, 1, 2, length=40, urgent=False)
    runner.gate.set()
    for call in (holder, long, short):
        call.future.result(10)
    assert list(chain(*runner.batches))[:6] == [0, 100, 1, 101, 2, 102]


def test_an_urgent_batch_that_does_not_fit_beside_a_bulk_one_waits_until_it_ends(scheduler):
    runner, depth = FaultyRunner(), [0]
    whole = runner.run

    def run(batch, between_layers):
        depth[0] += 1
        try:
            if depth[0] > 1:
                raise OutOfMemoryError("there is room for one batch")
            return whole(batch, between_layers)
        finally:
            depth[0] -= 1

    runner.run = run
    bulk = submit(scheduler, runner, *range(100, 103), length=40, urgent=False)
    assert runner.entered.wait(10)
    urgent = [submit(scheduler, runner, i) for i in range(1, 6)]
    runner.gate.set()
    assert bulk.future.result(10) == [100, 101, 102]
    assert [call.future.result(10) for call in urgent] == [[i] for i in range(1, 6)]
    assert runner.finished[:2] == [[100], [1, 2, 3, 4, 5]]


def test_an_urgent_batch_that_fails_between_layers_does_not_harm_the_bulk_batch(scheduler):
    runner = FaultyRunner()
    bulk = submit(scheduler, runner, 100, length=40, urgent=False)
    assert runner.entered.wait(10)
    broken, good = submit(scheduler, runner, FaultyRunner.BROKEN, length=64), submit(scheduler, runner, 1)
    runner.gate.set()
    assert bulk.future.result(10) == [100]
    assert good.future.result(10) == [1]
    with pytest.raises(ComputationError, match="broken"):
        broken.future.result(10)
    assert list(chain(*runner.finished))[-1] == 100


def test_a_batch_that_nobody_waits_for_ends_at_its_next_layer(scheduler):
    runner = FaultyRunner()
    gone, partner = submit(scheduler, runner, 1, length=40), submit(scheduler, runner, 2, length=40)
    assert runner.entered.wait(10)
    gone.cancel()
    runner.gate.set()
    assert partner.future.result(10) == [2]
    assert runner.batches == [[1], [2]]
    assert runner.finished == [[2]]


def test_stopping_fails_queued_calls_and_refuses_new_ones(policy):
    scheduler, runner = Scheduler("test"), FaultyRunner()
    running = submit(scheduler, runner, 1)
    assert runner.entered.wait(10)
    waiting = submit(scheduler, runner, 2, length=64)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    with pytest.raises(ClosedError):
        waiting.future.result(10)
    runner.gate.set()
    stopper.join(10)
    assert running.future.result(10) == [1]
    with pytest.raises(ClosedError):
        submit(scheduler, runner, 3)


def test_a_worker_that_failed_to_start_is_started_again(scheduler, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    runner = FaultyRunner()
    runner.gate.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            submit(scheduler, runner, 1)
    assert submit(scheduler, runner, 2).future.result(10) == [2]
    assert runner.batches == [[2]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_fails_all_callers_and_the_next_call_starts_another(scheduler, monkeypatch):
    runner = FaultyRunner()
    first = submit(scheduler, runner, 1)
    assert runner.entered.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler._counters, "count", raise_memory_error)
        waiting = [
            QueuedSequence(TokenSequence(np.full(4, 2, np.int32)), PendingCall(1), 0, time.perf_counter())
            for _ in range(2)
        ]
        with scheduler._changed:
            for queued in waiting:
                scheduler._bulk.add(runner, [queued])
        runner.gate.set()
        for queued in waiting:
            with pytest.raises(ComputationError):
                queued.call.future.result(10)
        assert first.future.result(10) == [1]
    assert submit(scheduler, runner, 3).future.result(10) == [3]


def raise_memory_error(*_, **__):
    raise MemoryError


def test_a_full_queue_makes_callers_wait(scheduler):
    runtime.configure(max_queued_tokens=80)
    runner = FaultyRunner()
    first = submit(scheduler, runner, 1, length=40)
    assert runner.entered.wait(10)
    fits = submit(scheduler, runner, 2, 3, length=40)
    waiting = []
    caller = threading.Thread(target=lambda: waiting.append(submit(scheduler, runner, 4, length=40)))
    caller.start()
    caller.join(0.05)
    assert caller.is_alive()  # 80 tokens are already queued
    bulk = submit(scheduler, runner, 5, length=40, urgent=False)  # bulk calls have their own queue
    runner.gate.set()
    caller.join(10)
    for call, expected in ((first, [1]), (fits, [2, 3]), (waiting[0], [4]), (bulk, [5])):
        assert call.future.result(10) == expected


def test_a_full_queue_refuses_new_calls_if_so_configured(scheduler):
    runtime.configure(max_queued_tokens=80, when_full="refuse")
    runner = FaultyRunner()
    first = submit(scheduler, runner, 1, length=40)
    assert runner.entered.wait(10)
    fits = submit(scheduler, runner, 2, 3, length=40)
    with pytest.raises(OverloadedError, match="max_queued_tokens"):
        submit(scheduler, runner, 4, length=40)
    runner.gate.set()
    assert first.future.result(10) == [1]
    assert fits.future.result(10) == [2, 3]
    assert submit(scheduler, runner, 5, length=40).future.result(10) == [5]
    assert runtime.statistics()["test"].refused_requests >= 1


def test_a_call_larger_than_the_limit_is_accepted_when_the_queue_is_empty(scheduler):
    runtime.configure(max_queued_tokens=16, when_full="refuse")
    runner = FaultyRunner()
    runner.gate.set()
    assert submit(scheduler, runner, *range(8), length=32).future.result(10) == list(range(8))


def test_the_counters_match_the_work(scheduler):
    before = runtime.statistics()["test"]
    runner = FaultyRunner()
    first = submit(scheduler, runner, 1)
    assert runner.entered.wait(10)
    second = submit(scheduler, runner, *range(2, 18))  # 64 tokens: computed in two halves
    waiting = runtime.statistics()["test"]
    assert (waiting.queued_sequences, waiting.queued_tokens) == (16, 64)
    runner.gate.set()
    for call in (first, second):
        call.future.result(10)
    scheduler.stop()  # the worker updates the counters after it delivers results
    after = runtime.statistics()["test"]
    assert after.requests - before.requests == 2
    assert after.sequences - before.sequences == 17
    assert after.tokens - before.tokens == 68
    assert after.batches - before.batches == 3
    assert after.split_batches - before.split_batches == 1
    assert (after.queued_sequences, after.queued_tokens) == (0, 0)
    assert after.waiting_seconds > before.waiting_seconds
    assert after.computing_seconds > before.computing_seconds


def test_a_split_batch_is_logged_and_reported_to_its_calls(scheduler, caplog):
    runner = FaultyRunner()
    runner.gate.set()
    call = submit(scheduler, runner, *range(16))
    call.future.result(10)
    assert "computed in halves" in caplog.text
    assert any("smaller ones" in slowdown for slowdown in call.slowdowns)


@pytest.mark.parametrize("change", [{"when_full": "drop"}, {"urgent_tokens": 0}, {"urgent_tokens": "1"}])
def test_an_invalid_policy_is_refused(change):
    before = runtime.policy
    with pytest.raises(InvalidInputError) as caught:
        runtime.configure(**change)
    assert caught.value.argument == next(iter(change))
    with pytest.raises(InvalidInputError, match="'tokens'"):
        runtime.configure(tokens=1)
    assert runtime.policy is before


def test_a_large_portion_gets_its_turn_though_small_ones_keep_coming(scheduler):
    runtime.configure(max_queued_tokens=80)
    runner = FaultyRunner()
    first = submit(scheduler, runner, 1, length=40)
    assert runner.entered.wait(10)
    fits = submit(scheduler, runner, 2, length=40)
    calls, started = {}, []

    def caller(number, size):
        started.append(number)
        calls[number] = submit(scheduler, runner, *range(number, number + size), length=40)

    threads = [threading.Thread(target=caller, args=(10, 4)), threading.Thread(target=caller, args=(20, 1))]
    for count, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda count=count: len(scheduler._urgent.callers) == count)
    runner.gate.set()
    for thread in threads:
        thread.join(10)
    for call, expected in ((first, [1]), (fits, [2]), (calls[10], [10, 11, 12, 13]), (calls[20], [20])):
        assert call.future.result(10) == expected
    order = list(chain(*runner.batches))
    assert order.index(10) < order.index(20)


def test_a_cancelled_call_does_not_wait_for_room(scheduler):
    runtime.configure(max_queued_tokens=40)
    runner = FaultyRunner()
    submit(scheduler, runner, 1, length=40)
    assert runner.entered.wait(10)
    submit(scheduler, runner, 2, length=40)
    call = PendingCall(1)
    queued = QueuedSequence(TokenSequence(np.full(40, 3, np.int32)), call, 0, time.perf_counter())
    caller = threading.Thread(target=scheduler.submit, args=(runner, [queued]), kwargs={"urgent": True})
    caller.start()
    wait_until(lambda: scheduler._urgent.callers)
    call.cancel()
    caller.join(10)
    assert not caller.is_alive()
    assert not scheduler._urgent.callers
    runner.gate.set()


def test_statistics_can_be_exported_and_read_in_a_signal_handler(scheduler):
    counters = runtime.counters_of("test")
    assert pickle.loads(pickle.dumps(counters.snapshot())) == counters.snapshot()
    assert asdict(counters.snapshot())["batches"] >= 0
    with counters._lock:  # as when a signal arrives while this thread counts
        assert runtime.statistics()["test"] == counters.snapshot()
