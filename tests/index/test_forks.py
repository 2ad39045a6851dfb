"""An M3Index that was opened before a fork: the child is refused at once, and the parent is unharmed."""

import asyncio
import gc
import os
import select
import signal

import pytest

from bge_integrations.errors import BGEError, ClosedError
from bge_integrations.index import M3Index

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)

TEXTS = ["Pandas eat bamboo.", "大熊猫吃竹子。", "Rome lies on the Tiber."]
IDS = ["panda", "熊猫", "rome"]


@pytest.fixture(params=["folder", ":memory:", "qdrant client"])
def index(request, tmp_path, pocket):
    location = {"folder": tmp_path / "index", ":memory:": ":memory:"}.get(request.param)
    if location is None:
        location = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    with M3Index.open(location, pocket) as index:
        index.add(TEXTS, IDS, [{"n": i} for i in range(3)])
        yield index


def in_child(function, seconds=30):
    """Return the string that a function returns in a forked child, or the error that it raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            try:
                answer = str(function())
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        if not select.select([reading], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child hangs")
        with os.fdopen(reading, "rb") as answer:
            return answer.read().decode()
    finally:
        os.waitpid(child, 0)


CALLS = {
    "search": lambda index: index.search("panda"),
    "search_many": lambda index: index.search_many(["panda", "熊猫"], k=1, mode="sparse"),
    "search_by_vector": lambda index: index.search_by_vector([0.0] * index.embedder.dimension),
    "asearch": lambda index: asyncio.run(index.asearch("panda")),
    "add": lambda index: index.add(["child"]),
    "add nothing": lambda index: index.add([]),
    "add again": lambda index: index.add(TEXTS, IDS),
    "aadd": lambda index: asyncio.run(index.aadd(iter(["child"]))),
    "delete": lambda index: index.delete(["panda"]),
    "delete by filter": lambda index: index.delete(filter={"n": {"$gte": 1}}),
    "get": lambda index: index.get(["panda"]),
    "aget": lambda index: asyncio.run(index.aget(["panda"])),
    "dense_vectors": lambda index: index.dense_vectors(["panda"]),
    "iteration": list,
    "scan": lambda index: next(index.scan({"n": 1})),
    "len": len,
    "in": lambda index: "panda" in index,
    "flush": lambda index: index.flush(),
    "optimize": lambda index: index.optimize(),
    "copy_to": lambda index: index.copy_to("nowhere"),
}


def answers(index):
    """Return what each call answers, one per line."""
    lines = []
    for name, call in CALLS.items():
        try:
            lines.append(f"{name}: {call(index)}")
        except BGEError as error:
            lines.append(f"{name}: {type(error).__name__}: {error}")
    return "\n".join(lines)


def test_every_call_in_a_forked_child_is_refused(index):
    with index._store.write():  # the locks of the child are those at the time of the fork
        lines = in_child(lambda: answers(index)).splitlines()
    assert len(lines) == len(CALLS)
    for line in lines:
        assert ": ClosedError: " in line
        assert "open the index in the worker" in line
        assert "server" in line
    assert index.add(["A heron."], ["heron"]) == ["heron"]
    assert sorted(document.id for document in index) == sorted([*IDS, "heron"])
    assert index.search("heron", k=1)[0].id == "heron"


def test_closing_in_a_child_does_nothing(index):
    def close():
        with index:
            pass
        index.close()
        asyncio.run(index.aclose())
        gc.collect()
        return "closed"

    with index._store.read():
        assert in_child(close) == "closed"
    index.add(["A heron."])
    assert len(index) == 4


def test_a_grandchild_is_refused_too(index):
    answer = in_child(lambda: in_child(lambda: index.search("panda")))
    assert answer.startswith("ClosedError")


@pytest.mark.parametrize("optimized", [False, True])
def test_the_parent_opens_the_folder_again_while_children_live(tmp_path, pocket, optimized):
    index = M3Index.open(tmp_path / "index", pocket)
    index.add(TEXTS, IDS)
    if optimized:
        index.optimize()
    children = []
    started, start = os.pipe()
    for _ in range(2):
        child = os.fork()
        if not child:
            os.write(start, b"1")  # the engine's files of the parent are let go by now
            signal.pause()
        children.append(child)
        os.read(started, 1)
    try:
        for _ in range(2):
            index.close()
            index = M3Index.open(tmp_path / "index", pocket)
            index.add(["A heron."])
            assert len(index) == 4
        index.close()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_worker_opens_what_its_parent_has_closed(tmp_path, pocket):
    path = tmp_path / "index"
    with M3Index.open(path, pocket) as index:
        index.add(TEXTS, IDS)
        assert "in another process" in in_child(lambda: M3Index.open(path, pocket))

    def work():
        with M3Index.open(path, "pocket") as opened:
            opened.add(["child"])
            return opened.search("child", k=1)[0].text

    for _ in range(2):  # two workers, one after the other
        assert in_child(work) == "child"
    with M3Index.open(path, pocket) as index:
        assert len(index) == 4


def test_workers_cannot_overwrite_each_other(tmp_path, pocket):
    path = tmp_path / "index"
    with M3Index.open(path, pocket) as index:
        index.add(TEXTS, IDS)

        def work():
            refused = 0
            for i in range(20):
                try:
                    index.add([f"worker {os.getpid()} writes {i}"])
                except BGEError as error:
                    refused += isinstance(error, ClosedError)
            return refused

        assert [in_child(work), in_child(work)] == ["20", "20"]
        index.add([f"parent writes {i}" for i in range(20)])
    with M3Index.open(path, pocket) as index:
        assert len(index) == 23


def test_models_still_work_in_a_child(index, pocket):
    expected = pocket.encode(["panda"]).dense
    assert in_child(lambda: abs(pocket.encode(["panda"]).dense - expected).max() < 1e-5) == "True"
