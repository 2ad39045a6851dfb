"""Folders that vanish while an index is open, and folders that are opened more than once."""

import os
import shutil

import pytest

from bge_integrations.errors import IndexFormatError, StorageError
from bge_integrations.index import M3Index

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
