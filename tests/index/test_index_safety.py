"""M3Index loses and mixes up nothing: kills, full disks, damaged folders, many threads, every kind of exit."""

import asyncio
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ALLOW_SIGINT, M3

from bge_integrations.errors import (
    CheckpointNotFoundError,
    ClosedError,
    DiskFullError,
    IndexFormatError,
    IndexLockedError,
    InvalidInputError,
    StorageError,
    TruncationWarning,
    WrongModelError,
)
from bge_integrations.index import M3Index, StoredDocument, documents, optimize_shard
from bge_integrations.index.files import disk_use
from bge_integrations.scoring import hybrid_scores

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXTS = [f"Panda {i} eats bamboo number {i}." for i in range(20)]
IDS = [f"id {i}" for i in range(20)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def index(folder, pocket):
    """An index of a few documents in a folder."""
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS, IDS, [{"n": i} for i in range(20)])
        yield index


@pytest.fixture
def encoded(pocket, monkeypatch):
    """A list that collects the texts that the model encodes."""
    texts = []
    encode = pocket.encode

    def spy(batch, **settings):
        texts.extend(batch)
        return encode(batch, **settings)

    monkeypatch.setattr(pocket, "encode", spy)
    return texts


def contents(folder):
    """Return the path and content of every file in a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder):
    return [path.name for path in folder.glob("shard-*")]


def run(code, *arguments):
    """Run a user's program, which must exit with status 0 and write nothing to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def wait_for(condition):
    """Wait until the condition holds; pytest's timeout fails the test if it never does."""
    while not condition():
        threading.Event().wait(0.002)


# Kills, and the lock on the folder


def test_kills_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "kill_rounds.py"), "--rounds", "5", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost" in done.stdout


HOLDER = """
import sys
from bge_integrations.index import M3Index
index = M3Index.open(sys.argv[1], "pocket")
index.add(["A heron."], ["1"])
print("open", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_and_another_after_a_kill(folder, pocket):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(IndexLockedError, match="in another process"):
            M3Index.open(folder, pocket)
        holder.kill()
    with M3Index.open(folder, pocket) as index:
        assert [hit.id for hit in index.search("heron")] == ["1"]
        assert len(index) == 1


async def test_any_thread_closes(folder, pocket):
    async with M3Index.open(folder, pocket):
        pass
    index = await asyncio.to_thread(M3Index.open, folder, pocket)
    index.close()
    with M3Index.open(folder, pocket) as again:
        assert len(again) == 0


def test_a_dropped_index_releases_its_folder(folder, pocket):
    index = M3Index.open(folder, pocket)
    index.add(TEXTS)
    del index
    gc.collect()
    with M3Index.open(folder, pocket) as index:
        assert len(index) == 20


# Damaged and foreign folders


def lose(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


def change(name, **values):
    def damage(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


def lose_both(folder):
    lose("manifest.json")(folder)
    lose("current.json")(folder)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lose("manifest.json"), "manifest.json is missing; restore"),
        (lose("current.json"), "current.json is missing; restore"),
        (lose_both, "manifest.json is missing; restore"),
        (cut("manifest.json"), "manifest.json is damaged"),
        (cut("current.json"), "current.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00"), "manifest.json is damaged"),
        (lambda folder: (folder / "current.json").write_text("[]"), "current.json is damaged"),
        (change("manifest.json", format=99), "upgrade"),
        (change("manifest.json", format="1"), "manifest.json"),
        (change("manifest.json", max_length=None), r"damaged \(max_length\)"),
        (change("manifest.json", multi_vectors="float8"), r"damaged \(multi_vectors\)"),
        (change("manifest.json", colour="red"), r"damaged \(colour\)"),
        (change("current.json", shard=""), "current.json is damaged"),
        (change("current.json", shard="../index"), "current.json is damaged"),
        (change("current.json", shard="shard-000000000000"), "missing; restore"),
        (change("current.json", optimized_points="many"), "current.json is damaged"),
    ],
)
def test_a_damaged_index_is_left_as_it_is(folder, pocket, damage, named):
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS)
    whole = contents(folder)
    damage(folder)
    before = contents(folder)
    for model in (pocket, None):
        with pytest.raises(IndexFormatError, match=named):
            M3Index.open(folder, model)
    assert contents(folder) == before
    for path, content in whole.items():
        (folder / path).write_bytes(content)
    with M3Index.open(folder, pocket) as index:
        assert len(index) == 20


@pytest.mark.parametrize(
    "name", ["notes.txt", "manifest.json", "shard-0/data", "shard-notes/1", "my-shard-1", "multi_vectors/1"]
)
def test_a_foreign_folder_is_left_as_it_is(tmp_path, pocket, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"name": "precious"}')
    before = contents(tmp_path)
    with pytest.raises(IndexFormatError, match=tmp_path.name):
        M3Index.open(tmp_path, pocket)
    assert contents(tmp_path) == before


def test_a_model_that_cannot_be_loaded_leaves_no_folder(tmp_path, pocket):
    there = tmp_path / "there"
    there.mkdir()
    for place in (tmp_path / "new" / "index", there):
        with pytest.raises(CheckpointNotFoundError):
            M3Index.open(place, "./no/such/model")
    assert list(tmp_path.iterdir()) == [there]
    assert not any(there.iterdir())
    with M3Index.open(there, pocket) as index:
        index.add(TEXTS[:1])
    with pytest.raises(CheckpointNotFoundError):
        M3Index.open(there, "./no/such/model")
    with M3Index.open(there) as index:
        assert len(index) == 1


def test_a_file_is_not_a_folder(tmp_path, pocket):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(IndexFormatError, match="file"):
        M3Index.open(tmp_path / "file", pocket)
    assert (tmp_path / "file").read_text() == "precious"


DIES_IN = """
import os, sys
from bge_integrations.index import M3Index
from bge_integrations.index.folder import Folder
setattr(Folder, sys.argv[2], lambda *arguments: os._exit(0))
M3Index.open(sys.argv[1], "pocket")
"""


@pytest.mark.parametrize("step", ["begin", "remove_shards", "new_shard", "complete", "switch"])
def test_an_interrupted_creation_starts_over(folder, pocket, step):
    run(DIES_IN, folder, step)
    with M3Index.open(folder, pocket) as index:
        assert len(index) == 0
        index.add(TEXTS)
    with M3Index.open(folder, pocket) as index:
        assert len(index) == 20
    assert len(shards(folder)) == 1


# Models


def test_another_model_is_refused_and_the_folder_is_released(folder, pocket):
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS)
    before = contents(folder)
    with pytest.raises(WrongModelError, match="pocket"):
        M3Index.open(folder, M3)
    with pytest.raises(WrongModelError, match="max_length"):
        M3Index.open(folder, "pocket", max_length=16)
    assert contents(folder) == before
    with M3Index.open(folder) as index:
        assert index.embedder.name == "pocket"
        assert len(index.search("bamboo", k=20)) == 20


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk can't be mounted here: {getattr(error, 'stderr', error)}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_nothing_and_writes_continue_once_there_is_space(small_disk, pocket):
    with M3Index.open(small_disk / "index", pocket) as index:
        index.add(TEXTS, IDS)
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - (60 << 20)))
        more = [f"A heron {i} stands in the water." for i in range(500)]
        with pytest.raises(DiskFullError, match="MB"):
            index.add(more)
        with pytest.raises(DiskFullError):
            index.optimize()
        with pytest.raises(DiskFullError):
            M3Index.open(small_disk / "another", pocket)
        assert sorted(index.scan(), key=lambda e: IDS.index(e.id)) == [
            StoredDocument(i, text, {}) for i, text in zip(IDS, TEXTS, strict=True)
        ]
        assert index.delete(["id 0"]) == 1  # this frees space
    with M3Index.open(small_disk / "index", pocket) as index:
        assert len(index.search("bamboo", k=100, mode="dense")) == 19
        ballast.unlink()
        index.add(more)
        assert len(index) == 519
    with M3Index.open(small_disk / "another", pocket) as index:
        assert len(index) == 0


def test_a_disk_that_fills_up_midway(small_disk, pocket):
    """Documents are added until the disk is full, which checks before each write cannot always predict."""
    texts = (" ".join(random.Random(i).choices(TEXTS[i % 20].split(), k=120)) + f" {i}" for i in range(10**6))
    with M3Index.open(small_disk / "index", pocket) as index:
        (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - (72 << 20)))
        with pytest.raises(DiskFullError):
            index.add(texts)
        stored = len(index)
        assert stored
    with M3Index.open(small_disk / "index", pocket) as index:
        assert len(index) == stored == len(index.search("bamboo", k=10**5, mode="dense"))


# Optimising


class HeldOptimizer:
    """An optimiser program that does not start its work before `go()` is called.

    Attributes:
        program: The path of the program.
        pid: The process id; waits until the process has started.
    """

    def __init__(self, folder):
        folder.mkdir()
        self.program, self._pid, self._go = folder / "program.py", folder / "pid", folder / "go"
        self.program.write_text(f"""
import os, runpy, time
with open({str(self._pid)!r} + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, {str(self._pid)!r})
while not os.path.exists({str(self._go)!r}):
    time.sleep(0.005)
runpy.run_path({optimize_shard.__file__!r}, run_name="__main__")
""")

    @property
    def pid(self):
        wait_for(self._pid.exists)
        return int(self._pid.read_text())

    def go(self):
        self._go.touch()


@pytest.fixture
def optimizer(tmp_path, monkeypatch):
    held = HeldOptimizer(tmp_path / "optimizer")
    monkeypatch.setattr(optimize_shard, "__file__", str(held.program))
    return held


def test_writes_during_optimising_are_carried_over(index, folder, pocket, optimizer):
    with ThreadPoolExecutor(1) as pool:
        optimizing = pool.submit(index.optimize)
        assert optimizer.pid
        index.add(["A heron stands in the water."], ["new"], [{"year": 2020}])
        index.add(["Rome lies on the Tiber."], ["id 0"], [{"n": 0}])
        index.add([TEXTS[1]], ["id 1"], [{"n": 100}])
        index.delete(["id 2"])
        index.add(["gone again"], ["brief"])
        index.delete(["brief"])
        before = shards(folder)
        optimizer.go()
        optimizing.result()
    assert len(shards(folder)) == 1
    assert set(shards(folder)) < set(before)
    expected = {i: StoredDocument(i, text, {"n": n}) for n, (i, text) in enumerate(zip(IDS, TEXTS, strict=True))}
    expected["new"] = StoredDocument("new", "A heron stands in the water.", {"year": 2020})
    expected["id 0"] = StoredDocument("id 0", "Rome lies on the Tiber.", {"n": 0})
    expected["id 1"] = StoredDocument("id 1", TEXTS[1], {"n": 100})
    del expected["id 2"]
    assert {entry.id: entry for entry in index} == expected
    index.close()
    with M3Index.open(folder, pocket) as again:
        assert {entry.id: entry for entry in again} == expected
        assert [hit.id for hit in again.search("a heron in the water", k=1)] == ["new"]
        for key in ("n", "year"):  # a key first seen during the optimisation is known to be numeric, too
            with pytest.raises(InvalidInputError, match=rf"\['{key}'\]"):
                again.count({key: {"$gte": "2020-01-01"}})


def test_optimising_takes_little_disk_space(index, folder):
    """The engine's files are large but sparse, and stay sparse."""
    before = disk_use(folder)
    index.optimize()
    assert disk_use(folder) < 4 * before + (1 << 20)
    assert len(index.search("bamboo", mode="dense")) == 10


def test_an_interrupt_at_the_switch_to_the_copy(ctrl_c, index, folder, pocket):
    """Ctrl-C arrives when the copy has just become the current shard."""
    current = (folder / "current.json").read_text()

    def interrupt():
        wait_for(lambda: (folder / "current.json").read_text() != current)
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            index.optimize()
            threading.Event().wait()  # in case it was faster than the signal
    index.add(["One more."])
    index.close()
    with M3Index.open(folder, pocket) as again:
        assert len(again) == 21


def test_an_optimiser_that_fails_changes_nothing(index, folder, monkeypatch):
    before = shards(folder)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(StorageError, match="status 1"):
            index.optimize()
    assert shards(folder) == before
    index.add(["One more."])
    index.optimize()
    assert len(index) == 21


def test_closing_while_optimising(index, folder, pocket, optimizer):
    with ThreadPoolExecutor(1) as pool:
        optimizing = pool.submit(index.optimize)
        pid = optimizer.pid
        assert len(index.search("bamboo")) == 10
        index.close()
        with pytest.raises(ClosedError):
            optimizing.result()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(shards(folder)) == 1
    with M3Index.open(folder, pocket) as again:
        assert len(again) == 20


CTRL_C = """
import os, signal, sys, threading
from bge_integrations.index import M3Index, optimize_shard
folder, optimize_shard.__file__ = sys.argv[1:]
index = M3Index.open(folder, "pocket")
index.add(["A panda eats bamboo."])
os.setpgrp()
optimizing = threading.Thread(target=index.optimize)
optimizing.start()
print("ready", os.getpid(), flush=True)
try:
    threading.Event().wait()
except KeyboardInterrupt:
    print("interrupted", flush=True)
optimizing.join()
index.close()
"""


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_optimiser(folder, optimizer):
    """A terminal sends Ctrl-C to the whole process group; a program that goes on keeps its background work."""
    program = subprocess.Popen(
        [sys.executable, "-c", ALLOW_SIGINT + CTRL_C, str(folder), str(optimizer.program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        group = int(program.stdout.readline().removeprefix("ready "))
        assert optimizer.pid
        current = (folder / "current.json").read_text()
        os.killpg(group, signal.SIGINT)
        assert program.stdout.readline() == "interrupted\n"
        optimizer.go()
        assert program.stderr.read() == ""
    assert program.returncode == 0
    assert len(shards(folder)) == 1
    assert (folder / "current.json").read_text() != current


# Exits

ENDS = {
    "without closing": "",
    "while optimising": """
import threading
def optimize():
    try:
        index.optimize()
    except BGEError:
        return
threading.Thread(target=optimize, daemon=True).start()
while len(list(Path(sys.argv[1]).glob("shard-*"))) < 2: pass
""",
    "while searching": """
import threading
vector = index.embedder.encode(["bamboo"]).dense[0]
def search():
    while True:
        try:
            index.search_by_vector(vector)
        except BGEError:
            return
        searched.release()
searched = threading.Semaphore(0)
sys.setswitchinterval(1e-5)
for _ in range(6): threading.Thread(target=search, daemon=True).start()
for _ in range(20): searched.acquire()
""",
    "by sys.exit in a with block": "index.__enter__(); sys.exit()",
    "in memory": 'index = M3Index.open(":memory:", "pocket"); index.add(["A panda."])',
    "after a fork": """
memory = M3Index.open(":memory:", "pocket")
memory.add(["A panda."])
child = os.fork()
if not child:
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
memory.add(["A heron."])
assert len(memory) == 2
index.add(["A panda."])
try:
    Folder(sys.argv[1])
except IndexLockedError:
    pass
else:
    raise AssertionError("the child has let go of the folder")
index.delete(filter={"n": 0})
index.add(["A heron."], metadatas=[{"n": 0}])
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_cleanly(folder, pocket, end, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    run(
        f"""
import os, sys
from pathlib import Path
from bge_integrations.errors import BGEError, IndexLockedError
from bge_integrations.index import M3Index
from bge_integrations.index.folder import Folder
index = M3Index.open(sys.argv[1], "pocket")
index.add(["A panda eats bamboo."], metadatas=[{{"n": 0}}])
{ENDS[end]}
""",
        folder,
    )
    assert not list((tmp_path / "temporary").glob("bge-index-*"))
    with M3Index.open(folder, pocket) as index:
        assert len(index) == (2 if end == "after a fork" else 1)
    assert len(shards(folder)) == 1


def test_closing_while_others_search_and_add(index, folder, pocket):
    started = threading.Barrier(9)

    def search():
        index.search("bamboo")
        started.wait()
        while True:
            assert len(index.search("bamboo", k=5)) == 5

    def add():
        started.wait()
        for i in range(10**9):
            index.add([f"Number {i}."])

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(add if i % 4 == 0 else search) for i in range(8)]
        started.wait()
        index.close()
        index.close()
        for work in working:
            with pytest.raises(ClosedError):
                work.result()
    for call in (lambda: len(index), lambda: index.delete(IDS), index.flush, index.optimize, lambda: list(index)):
        with pytest.raises(ClosedError):
            call()
    with M3Index.open(folder, pocket) as again:
        assert len(again) >= 20


# Nothing is encoded twice


def test_stored_documents_are_not_encoded_again(folder, pocket, encoded):
    metadatas = [{"n": i} for i in range(20)]
    for _ in range(2):  # the second time, the index has been reopened
        with M3Index.open(folder, pocket) as index:
            for _ in range(2):
                assert index.add(TEXTS, IDS, metadatas) == IDS
                assert len(index.add(iter(TEXTS))) == 20
    assert encoded == TEXTS + TEXTS  # once under given ids and once under derived ones
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS, IDS, [{"n": i, "new": True} for i in range(20)])
        assert index.count({"new": True}) == 20
        index.add(["Panda 0 sleeps.", *TEXTS[1:]], IDS, metadatas)
        assert index.count({"new": True}) == 0
    assert encoded[40:] == ["Panda 0 sleeps."]


async def test_a_cancelled_aadd_is_completed_by_the_same_call(folder, pocket, monkeypatch):
    monkeypatch.setattr(documents, "_CHUNK_DOCUMENTS", 32)
    texts = [f"Document {i}: " + "panda " * 40 for i in range(320)]
    encoded = []
    aencode = pocket.aencode

    async def spy(batch, **settings):
        encoded.extend(batch)
        return await aencode(batch, **settings)

    monkeypatch.setattr(pocket, "aencode", spy)
    async with M3Index.open(folder, pocket) as index:
        adding = asyncio.create_task(index.aadd(texts))
        while not await asyncio.to_thread(len, index):
            await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        stored = {entry.text for entry in index}
        assert 0 < len(stored) < 320
        encoded.clear()
        ids = await index.aadd(texts)
        assert [entry.text for entry in index.get(ids)] == texts
        assert stored.isdisjoint(encoded)
        assert len(index) == 320


# Concurrency


def test_16_threads_write_and_search_at_once(folder, pocket):
    """Every hit is a document as one call wrote it, with the score of its text, and no document is lost."""
    queries = ["What does a panda eat?", "bamboo in the water", "the heron of writer 3"]
    modes = ["dense", "sparse", "multi_vector", "hybrid"]
    words = ["panda", "heron", "bamboo", "water", "Rome", "river", "stone", "bridge"]
    found = []
    writing = threading.Semaphore(0)

    def write(writer):
        rng = random.Random(writer)
        mine = {}
        for step in range(6):
            entries = []
            for i in rng.sample(range(12), 6):
                identifier = f"writer {writer} document {i}"
                text = f"{identifier}: {' '.join(rng.choices(words, k=rng.randrange(2, 12)))}."
                if identifier in mine and rng.random() < 0.5:
                    text = mine[identifier].text
                entries.append(StoredDocument(identifier, text, {"writer": writer, "step": step, "text": text}))
            index.add([e.text for e in entries], [e.id for e in entries], [e.metadata for e in entries])
            mine.update({entry.id: entry for entry in entries})
            gone = rng.sample(sorted(mine), 2)
            assert index.delete([*gone, "unknown"]) == 2
            for identifier in gone:
                del mine[identifier]
            assert index.count({"writer": writer}) == len(mine)
            assert index.get(mine) == list(mine.values())
        writing.release()
        return mine

    def search(i):
        rng = random.Random(i)
        while not done.is_set():
            mode, query = rng.choice(modes), rng.randrange(3)
            hits = index.search(queries[query], k=rng.choice([1, 5, 100]), mode=mode)
            assert len({hit.id for hit in hits}) == len(hits)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            found.extend((mode, query, hit) for hit in hits)

    def optimize():
        while not done.is_set():
            index.optimize()

    done = threading.Event()
    with M3Index.open(folder, pocket) as index, ThreadPoolExecutor(17) as pool:
        reading = [pool.submit(search, i) for i in range(8)] + [pool.submit(optimize)]
        try:
            documents = {}
            for written in pool.map(write, range(8)):
                documents.update(written)
        finally:
            done.set()
        for work in reading:
            work.result()
        assert {entry.id: entry for entry in index} == documents
        vectors = index.dense_vectors(documents)
    texts = sorted({hit.text for _, _, hit in found} | {entry.text for entry in documents.values()})
    places = {text: i for i, text in enumerate(texts)}
    passages = pocket.encode(texts, sparse=True, multi_vector=True)
    scores = hybrid_scores(pocket.encode(queries, kind="query", sparse=True, multi_vector=True), passages)
    assert {mode for mode, _, _ in found} == set(modes)
    for mode, query, hit in found:
        assert hit.text.startswith(f"{hit.id}: ")
        assert hit.metadata["text"] == hit.text
        expected = getattr(scores, mode)[query, places[hit.text]]
        assert abs(hit.score - expected) < 2e-3, (mode, hit)  # multi-vectors are stored in float16
    for identifier, entry in documents.items():
        np.testing.assert_allclose(vectors[identifier], passages.dense[places[entry.text]], atol=1e-5)


def test_64_threads_replace_the_same_documents(folder, pocket):
    """The last write wins for each document, and its text, metadata and vectors come from the same write."""
    with M3Index.open(folder, pocket) as index, ThreadPoolExecutor(64) as pool:

        def replace(i):
            index.add([f"{i} {TEXTS[j]}" for j in range(3)], IDS[:3], [{"n": i}] * 3)
            index.add([f"{i} {TEXTS[j]}" for j in range(3)], IDS[:3], [{"n": i, "again": True}] * 3)

        list(pool.map(replace, range(64)))
        entries = index.get(IDS[:3])
        assert len(entries) == len(index) == 3
        for entry in entries:
            assert entry.text.split()[0] == str(entry.metadata["n"])
        expected = pocket.encode([entry.text for entry in entries]).dense
        np.testing.assert_allclose(list(index.dense_vectors(IDS[:3]).values()), expected, atol=1e-5)


def test_deleting_during_a_scan(folder, pocket):
    with M3Index.open(folder, pocket) as index:
        ids = index.add([f"Number {i}." for i in range(600)])
        scan = iter(index)
        seen = [next(scan).id]
        gone = set(random.Random(0).sample(ids, 300))
        assert index.delete(gone) == 300
        seen += [entry.id for entry in scan]
        assert len(set(seen)) == len(seen)
        assert set(ids) - gone <= set(seen)


# Unusual and invalid input


@pytest.mark.parametrize(
    "identifier",
    ["a/b", "../x", '"', "\\", "\n", "\0", "ä🐼", " ", "0", "None", "6f0c1f3a-3c0e-5c5e-9d53-0b1d6f7a4b2e"],
)
def test_odd_ids(index, folder, pocket, identifier):
    metadata = {identifier: [identifier, {identifier: None}], "": "", "a.b": 1, 'a"b': 2, "a\\b": 3, "[0]": 4}
    index.add(["Odd."], [identifier], [metadata])
    index.close()
    with M3Index.open(folder, pocket) as again:
        assert again.get([identifier]) == [StoredDocument(identifier, "Odd.", metadata)]
        assert again.count({'"a.b"': 1}) == 1
        assert again.delete([identifier]) == 1


def test_extremes(index):
    assert index.add([]) == index.add(iter(())) == index.get([]) == []
    assert index.delete([]) == 0
    assert index.search_many([]) == []
    for most in (10**6, 2**80):
        assert len(index.search("bamboo", k=most)) == len(index.search("bamboo", k=20, candidates=most)) == 20
    assert len(index.search("bamboo", k=3, candidates=10_000)) == 3
    with pytest.warns(TruncationWarning):
        huge = index.add(["word " * 300_000])
    assert len(index.get(huge)[0].text) == 1_500_000
    assert len(index.search("word", k=1)[0].text) == 1_500_000


@pytest.mark.parametrize(
    "call",
    [
        lambda index: index.add("a text"),
        lambda index: index.add(None),
        lambda index: index.add({"id": "a text"}),
        lambda index: index.add(["ok", 3]),
        lambda index: index.add(["ok", "\ud800"]),
        lambda index: index.add(["ok"], ids=["\ud800"]),
        lambda index: index.add(["ok"], ids=[3]),
        lambda index: index.add(["ok"], ids=[""]),
        lambda index: index.add(["ok"], ids="x"),
        lambda index: index.add(["ok", "ok"], ids=["x"]),
        lambda index: index.add(["ok"], ids=3),
        lambda index: index.add(["ok"], metadatas=3),
        lambda index: index.add(["ok"], metadatas=[{"a": float("nan")}]),
        lambda index: index.add(["ok"], metadatas=[{"a": {1, 2}}]),
        lambda index: index.add(["ok"], metadatas=[{"a": 2**64}]),
        lambda index: index.add(["ok"], metadatas=[{1: 2}]),
        lambda index: index.add(["ok"], metadatas=[{"\udfff": 2}]),
        lambda index: index.delete(),
        lambda index: index.delete("id 0"),
        lambda index: index.delete(3),
        lambda index: index.delete([3]),
        lambda index: index.delete(filter={}),
        lambda index: index.get([None]),
        lambda index: index.get("id 0"),
        lambda index: index.search(3),
        lambda index: index.search_many("text"),
        lambda index: index.search("x", k=0),
        lambda index: index.search("x", k=1.5),
        lambda index: index.search("x", candidates=0),
        lambda index: index.search("x", mode="colbert"),
        lambda index: index.search("x", mode=["dense"]),
        lambda index: index.search("x", fusion="mean"),
        lambda index: index.search("x", weights=(0, 0, 0)),
        lambda index: index.search("x", weights=(1, -1, 1)),
        lambda index: index.search("x", weights=(1, float("nan"), 1)),
        lambda index: index.search("x", weights=(1, 1)),
        lambda index: index.search("x", filter="n = 3"),
        lambda index: index.search_by_vector([1.0, 2.0]),
        lambda index: index.search_by_vector(np.full(index.embedder.dimension, np.nan)),
        lambda index: index.search_by_vector(np.full(index.embedder.dimension, np.inf)),
        lambda index: index.search_by_vector("vector"),
        lambda index: index.search_by_vector(None),
    ],
)
def test_invalid_input_is_refused_and_changes_nothing(index, call):
    before = list(index)
    with pytest.raises(InvalidInputError):
        call(index)
    assert list(index) == before
