"""What goes wrong around a model in a process: the tokenizer, limits of the system, clocks, new processes."""

import multiprocessing
import subprocess
import sys

import pytest
from conftest import BASE

from bge_integrations.errors import ComputationError
from bge_integrations.models.tokenizer import TextTokenizer

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of the process as on Linux")


class Panic(BaseException):
    """Like the panics of libraries in Rust, which are no `Exception`."""


@pytest.mark.parametrize("kind", [Exception, Panic, KeyError, MemoryError])
@pytest.mark.parametrize("texts", [1, 3000])
async def test_a_fault_of_the_tokenizer_reaches_its_caller_alone(base, monkeypatch, kind, texts):
    ids = TextTokenizer.ids

    def fail(tokenizer, batch):
        if any("broken" in text for text in batch):
            raise kind("in the tokenizer")
        return ids(tokenizer, batch)

    monkeypatch.setattr(TextTokenizer, "ids", fail)
    good = [f"text {i}" for i in range(texts)]
    with pytest.raises(ComputationError) as caught:
        base.encode([*good, "broken"], kind=None)
    assert type(caught.value.__cause__) is kind
    with pytest.raises(ComputationError) as caught:
        await base.aencode([*good, "broken"], kind=None)
    assert type(caught.value.__cause__) is kind
    assert base.encode(good, kind=None).dense.shape == (texts, 64)


def test_ctrl_c_in_the_tokenizer_is_ctrl_c(base, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TextTokenizer, "ids", interrupt)
    with pytest.raises(KeyboardInterrupt):
        base.encode(["a text"], kind=None)


def run(code, *arguments):
    """Run a program, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


JUMPING_CLOCK = """
import itertools, sys, time
jumps = itertools.cycle([0.0, 1e11, -1e9, 5.0])
time.time = lambda: next(jumps)
from bge_integrations import load_embedder
from bge_integrations.index import M3Index
with load_embedder("pocket") as embedder, M3Index.open(sys.argv[1], embedder) as index:
    index.add(["A panda.", "A heron."], ["1", "2"])
    index.optimize()
    print([hit.id for hit in index.search("heron")][0], embedder.encode(["a"] * 3000).dense.shape)
"""


def test_clocks_may_jump(tmp_path):
    assert run(JUMPING_CLOCK, str(tmp_path / "index")) == "2 (3000, 256)\n"


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from bge_integrations import load_embedder
from bge_integrations.errors import BGEError
embedder = load_embedder("pocket")
embedder.encode(["a"])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
try:
    embedder.encode(["word " * 500] * 4096, multi_vector=True)
    print("no error")
except BGEError as error:
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(embedder.encode(["a"]).dense.shape)
"""


@linux
def test_little_memory():
    outcome, after = run(LITTLE_MEMORY).splitlines()
    assert outcome in ("OutOfMemoryError", "ComputationError")
    assert after == "(1, 256)"


FEW_FILES = """
import os, resource, sys, time
from bge_integrations import load_embedder
from bge_integrations.core import runtime
from bge_integrations.errors import BGEError
from bge_integrations.index import M3Index
embedder = load_embedder("pocket", device="cpu")
with M3Index.open(sys.argv[1], embedder) as index:
    index.add(["A panda."], ["1"])
outcomes = []
while not runtime.statistics()["cpu"].threads:  # the thread that computes opens a file after its first batch
    time.sleep(0.01)
used = len(os.listdir("/proc/self/fd"))
for more in (0, 2, 5, 10, 20, 40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for action in (lambda: load_embedder(sys.argv[2]).close(), lambda: M3Index.open(sys.argv[1], embedder).close()):
        try:
            action()
            outcomes.append("done")
        except BGEError as error:
            outcomes.append("refused")
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with M3Index.open(sys.argv[1], embedder) as index:
    outcomes.append([document.id for document in index.scan()])
print("refused" in outcomes, outcomes[-1])
"""


@linux
def test_few_open_files(tmp_path):
    assert run(FEW_FILES, str(tmp_path / "index"), BASE) == "True ['1']\n"


NEW_PROCESSES = """
import multiprocessing, sys
from bge_integrations import load_embedder

def encode(model):
    with load_embedder(model) as embedder:
        return embedder.encode(["a text", "another one"], kind=None).dense

if __name__ == "__main__":
    held = load_embedder(sys.argv[1])
    expected = held.encode(["a text", "another one"], kind=None).dense
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["bge_integrations.core.loading"])
        with context.Pool(2) as pool:
            for found in pool.map(encode, [sys.argv[1]] * 2):
                assert abs(found - expected).max() < 1e-6
    print("equal")
"""


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver here")
def test_spawned_and_forkserver_processes_compute_the_same(tmp_path):
    (tmp_path / "program.py").write_text(NEW_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), BASE], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr
