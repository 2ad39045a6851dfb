"""Folders that vanish while an index is open, and folders that are opened more than once."""

import gc
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from bge_integrations.errors import (
    ClosedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    InvalidInputError,
    StorageError,
    WrongModelError,
)
from bge_integrations.index import M3Index
from bge_integrations.index.folder import Folder

TEXTS = ["Pandas eat bamboo.", "大熊猫吃竹子。", "Rome lies on the Tiber."]
IDS = ["panda", "熊猫", "rome"]


def move_away(folder):
    os.rename(folder, folder.with_name("elsewhere"))


def replace_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def remove_shards(folder):
    for shard in folder.glob("shard-*"):
        shutil.rmtree(shard)


def replace_by_another(folder):
    shutil.rmtree(folder)
    with M3Index.open(folder, "pocket") as index:
        index.add(["Another index."])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "vanish", [shutil.rmtree, move_away, replace_by_a_file, remove_shards, replace_by_another, empty]
)
def test_a_folder_that_vanished(tmp_path, pocket, vanish):
    folder = tmp_path / "index"
    index = M3Index.open(folder, pocket)
    index.add(TEXTS, IDS)
    vanish(folder)
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: index.add(["lost"]),
        lambda: index.add(TEXTS, IDS),
        lambda: index.delete(["panda"]),
        lambda: index.search("panda"),
        lambda: len(index),
        index.flush,
        index.optimize,
        lambda: index.copy_to(tmp_path / "copy"),
    ):
        with pytest.raises(StorageError, match="gone") as caught:
            call()
        assert str(folder) in str(caught.value)
    index.close()
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written in its place


@pytest.mark.parametrize("vanish", [shutil.rmtree, move_away])
def test_a_new_index_in_the_place_of_one_that_vanished(tmp_path, pocket, vanish):
    folder = tmp_path / "index"
    old = M3Index.open(folder, pocket)
    old.add(TEXTS, IDS)
    vanish(folder)
    new = M3Index.open(folder, pocket)
    new.add(["A heron."], ["heron"])
    with pytest.raises(StorageError, match="gone"):
        old.add(["lost"])
    old.close()
    assert new.search("heron", k=1)[0].id == "heron"
    new.add(["More."])
    new.optimize()
    new.close()
    with M3Index.open(folder, pocket) as again:
        assert len(again) == 2


def test_a_damaged_folder_is_not_told_as_gone(tmp_path, pocket):
    with M3Index.open(tmp_path / "index", pocket) as index:
        index.add(TEXTS)
    remove_shards(tmp_path / "index")
    with pytest.raises(IndexFormatError, match="missing"):
        M3Index.open(tmp_path / "index", pocket)


# The same folder, opened more than once


def test_the_same_folder_shares_one_engine(tmp_path, pocket, monkeypatch):
    folder = tmp_path / "index"
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    first = M3Index.open(folder, pocket)
    first.add(TEXTS, IDS, [{"n": i} for i in range(3)])
    for again in (folder, str(folder), "index", "./index/", tmp_path / "link", tmp_path / "link" / ".." / "index"):
        second = M3Index.open(again, create=False)
        assert len(second) == 3
        second.add(["A heron."], ["heron"])
        assert first.search("heron", k=1)[0].id == "heron"
        with pytest.raises(InvalidInputError, match="numbers"):
            second.count({"n": {"$gte": "2020-01-01"}})
        assert first.delete(["heron"]) == 1
        assert "heron" not in second
        second.close()
        with pytest.raises(ClosedError):
            second.search("panda")
        assert len(first) == 3
    second = M3Index.open(folder)
    first.close()
    second.add(["A heron."])
    second.optimize()
    assert len(second) == 4
    second.close()
    Folder(folder).close()  # it is unlocked
    with M3Index.open(folder, pocket) as index:
        assert len(index) == 4


def test_a_key_that_another_index_has_made_known(tmp_path, pocket):
    with M3Index.open(tmp_path, pocket) as first, M3Index.open(tmp_path, pocket) as second:
        first.add(TEXTS, metadatas=[{"year": 2020}] * 3)
        with pytest.raises(InvalidInputError, match="year"):
            second.count({"year": {"$gte": "2020-01-01"}})


def test_what_does_not_fit_is_refused_as_in_any_opening(tmp_path, pocket):
    with M3Index.open(tmp_path / "index", pocket, multi_vectors="float32") as index:
        index.add(TEXTS)
        with pytest.raises(WrongModelError, match="max_length"):
            M3Index.open(tmp_path / "index", "pocket", max_length=16)
        with pytest.raises(InvalidInputError, match="multi_vectors"):
            M3Index.open(tmp_path / "index", pocket, multi_vectors="float16")
        with pytest.raises(InvalidInputError, match="dtyp"):
            M3Index.open(tmp_path / "index", dtyp="float32")
        assert len(index) == 3
        with pytest.raises(IndexLockedError, match="in this process"):
            index.copy_to(tmp_path / "index")
    Folder(tmp_path / "index").close()


def test_a_cell_that_fails_and_is_run_again(tmp_path, pocket):
    def cell(fail):
        index = M3Index.open(tmp_path, pocket)
        index.add(TEXTS, IDS)
        if fail:
            raise KeyError("cell")
        return index

    kept = []  # a notebook keeps the traceback, which keeps the index
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            cell(fail=True)
        kept.append(caught)
    index = cell(fail=False)
    assert len(index.search("panda", k=2)) == 2
    index.close()
    kept.clear()
    del caught
    gc.collect()
    Folder(tmp_path).close()


def test_many_threads_open_and_close_the_same_folder(tmp_path, pocket):
    def work(i):
        for j in range(3):
            with M3Index.open(tmp_path / "index", pocket) as index:
                index.add([f"Document {i} {j}."], [f"{i} {j}"])
                assert f"{i} {j}" in index

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    with M3Index.open(tmp_path / "index", pocket) as index:
        assert len(index) == 24


def test_a_failed_opening_releases_the_folder(tmp_path, pocket):
    with pytest.raises(IndexNotFoundError):
        M3Index.open(tmp_path / "index", pocket, create=False)
    assert not (tmp_path / "index").exists()
    with M3Index.open(tmp_path / "index", pocket):
        pass
    Folder(tmp_path / "index").close()
