"""The threads of the CPU's worker: the rule, a container's limit, and real processes that take the cores away."""

import itertools
import os
from pathlib import Path

import pytest

from bge_integrations.core.worker_threads import ThreadCount, cpu_limit

SCHEDSTAT = Path("/proc/thread-self/schedstat")
BUSY, IDLE = 0.5, 0.05
#: Computes until other processes have taken threads away, and until they are used again.
BESIDE_OTHERS = """
import os, subprocess, sys, time

os.environ["OMP_NUM_THREADS"] = "2"
import torch

from bge_integrations import load_embedder
from bge_integrations.core import runtime

texts = ["a text about mountains"] * 30


def encode_until(threads):
    end = time.monotonic() + 100
    while time.monotonic() < end:
        embedder.encode([f"{text} {i}" for i, text in enumerate(texts)], kind="passage")
        if runtime.statistics()["cpu"].threads == threads:
            return
    raise SystemExit(f"never on {threads} threads: {runtime.statistics()}")


with load_embedder("pocket", device="cpu", dtype="float32") as embedder:
    encode_until(2)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(int(sys.argv[1]))]
    try:
        encode_until(1)
        assert torch.get_num_threads() == 2, "the application's own setting was changed"
    finally:
        for other in others:
            other.kill()
            other.wait()
    encode_until(2)
"""


def test_threads_are_halved_while_they_wait_and_tried_again_after_a_pause():
    threads = ThreadCount(8)
    seen = []
    for now, waiting in [(0, BUSY), (0.1, BUSY), (0.2, BUSY), (0.3, BUSY), (0.4, IDLE), (1.5, IDLE), (1.6, IDLE)]:
        threads.judge(now, waiting)
        seen.append(threads.count)
    assert seen == [4, 2, 1, 1, 1, 2, 4]


def test_the_pause_doubles_after_each_failed_try_and_is_short_again_after_a_good_one():
    threads = ThreadCount(2)
    threads.judge(0, BUSY)
    tries = []
    now = 0.0
    while len(tries) < 9:
        now += 0.1
        threads.judge(now, IDLE)
        if threads.count == 2:
            tries.append(now)
            threads.judge(now, BUSY)
    pauses = [round(later - sooner) for sooner, later in itertools.pairwise(tries)]
    assert pauses == [2, 4, 8, 16, 32, 64, 64, 64]
    now += 64
    threads.judge(now, IDLE)
    threads.judge(now + 100, BUSY)
    assert threads.count == 1
    threads.judge(now + 101.1, IDLE)
    assert threads.count == 2


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "350000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_container(tmp_path, files, limit):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_limit(tmp_path) == limit


@pytest.mark.skipif(not SCHEDSTAT.exists() or (os.cpu_count() or 1) < 2, reason="needs Linux and two cores")
def test_other_processes_take_threads_away_and_give_them_back(run_as_user):
    run_as_user(BESIDE_OTHERS, str(2 * os.cpu_count()))
