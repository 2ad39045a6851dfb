"""M3Index.open(path, read_only=True): any number of readers, which never write."""

import os
import subprocess
import sys

import pytest

from bge_integrations.errors import (
    ClosedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    InvalidInputError,
    NotSupportedError,
    WrongModelError,
)
from bge_integrations.index import M3Index

TEXTS = ["Pandas eat bamboo.", "大熊猫吃竹子。", "Rome lies on the Tiber."]
IDS = ["panda", "熊猫", "rome"]


@pytest.fixture
def folder(tmp_path, pocket):
    with M3Index.open(tmp_path / "index", pocket) as index:
        index.add(TEXTS, IDS, [{"n": i} for i in range(3)])
    return tmp_path / "index"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which must be empty in the end."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield tmp_path / "temporary"
    assert not list((tmp_path / "temporary").iterdir())


def state(folder):
    """Return the content and time of change of everything in a folder."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_mode, path.is_file() and path.read_bytes())
        for path in (folder, *folder.rglob("*"))
    }


READER = """
import sys
from bge_integrations.index import M3Index
with M3Index.open(sys.argv[1], read_only=True) as index:
    print([hit.id for hit in index.search("bamboo", k=1)], len(index), flush=True)
    sys.stdin.read()
"""


def start(program, folder):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_any_number_of_processes_and_a_writer_afterwards(folder, pocket):
    before = state(folder)
    readers = [start(READER, folder) for _ in range(2)]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["['panda'] 3\n"] * 2
        with M3Index.open(folder, pocket, read_only=True) as first, M3Index.open(folder, read_only=True) as second:
            assert first.search("bamboo") == second.search("bamboo")
            assert first.location == str(folder)
            assert state(folder) == before
            with M3Index.open(folder, pocket) as writer:  # readers do not keep it locked
                writer.add(["A heron."])
            assert len(first) == 3
        with M3Index.open(folder, pocket, read_only=True) as later:
            assert len(later) == 4
    finally:
        for reader in readers:
            reader.communicate("")
    assert [reader.returncode for reader in readers] == [0, 0]


@pytest.mark.parametrize("lock", [True, False])
def test_a_read_only_file_system(folder, tmp_path, pocket, lock):
    if not lock:
        (folder / ".lock").unlink()
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    try:
        subprocess.run(["mount", "--bind", str(folder), str(mounted)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mounted)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a folder can't be mounted here")
    try:
        with M3Index.open(mounted, read_only=True) as index:
            assert index.search("Tiber", k=1)[0].id == "rome"
            assert index.count({"n": {"$gte": 1}}) == 2
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_folders_without_write_permission(folder, pocket):
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(folder)
    try:
        with M3Index.open(folder, read_only=True) as index:
            assert len(index.search("panda", k=2)) == 2
        assert state(folder) == before
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


WRITER = """
import sys
from bge_integrations.index import M3Index
with M3Index.open(sys.argv[1]) as index:
    index.add(["A heron."])
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_writer_in_another_process(folder, pocket):
    writer = start(WRITER, folder)
    try:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(IndexLockedError, match="open for writing in another process"):
            M3Index.open(folder, pocket, read_only=True)
    finally:
        writer.communicate("")
    assert writer.returncode == 0
    with M3Index.open(folder, pocket, read_only=True) as index:
        assert len(index) == 4


def test_a_writer_in_this_process_is_shared(folder, pocket):
    with M3Index.open(folder, pocket) as writer:
        with M3Index.open(folder, pocket, read_only=True) as reader:
            writer.add(["A heron."], ["heron"])
            assert reader.get(["heron"])[0].text == "A heron."
            with pytest.raises(NotSupportedError):
                reader.delete(["heron"])
        writer.add(["More."])
        assert len(writer) == 5


async def test_writes_are_refused(folder, pocket, tmp_path):
    with M3Index.open(folder, pocket, read_only=True) as index:
        for call in (
            lambda: index.add(["lost"]),
            lambda: index.add(TEXTS, IDS),
            lambda: index.add([]),
            lambda: index.delete(["panda"]),
            lambda: index.delete(filter={"n": 1}),
            lambda: index.delete([]),
            index.optimize,
        ):
            with pytest.raises(NotSupportedError, match="read_only=True"):
                call()
        with pytest.raises(NotSupportedError, match="read_only=True"):
            await index.aadd(["lost"])
        index.flush()
        assert sorted(document.id for document in index) == sorted(IDS)
        index.copy_to(tmp_path / "copy")
    with pytest.raises(ClosedError):
        index.search("panda")
    with M3Index.open(tmp_path / "copy", pocket) as copy:
        copy.add(["A heron."])
        assert len(copy) == 4


def test_what_cannot_be_read(folder, pocket, tmp_path):
    for missing in (tmp_path / "none", tmp_path / "temporary"):
        with pytest.raises(IndexNotFoundError, match=missing.name):
            M3Index.open(missing, pocket, read_only=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InvalidInputError, match="memory"):
        M3Index.open(":memory:", pocket, read_only=True)
    with pytest.raises(WrongModelError):
        M3Index.open(folder, "pocket", max_length=16, read_only=True)
    os.rename(folder / "manifest.json", tmp_path / "manifest.json")
    with pytest.raises(IndexFormatError, match=r"index.manifest\.json is missing"):
        M3Index.open(folder, pocket, read_only=True)


def test_a_qdrant_client(pocket):
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    with pytest.raises(IndexNotFoundError):
        M3Index.open(client, pocket, read_only=True)
    with M3Index.open(client, pocket) as writer, M3Index.open(client, pocket, read_only=True) as reader:
        writer.add(TEXTS, IDS)
        assert len(reader.search("bamboo", k=2)) == 2
        with pytest.raises(NotSupportedError):
            reader.add(["lost"])
