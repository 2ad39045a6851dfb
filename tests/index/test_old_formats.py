"""Folders that earlier releases wrote: they open, search and change as before, and newer ones are refused."""

import json
import tarfile
from pathlib import Path

import pytest
from conftest import M3

from bge_integrations.errors import IndexFormatError, WrongModelError
from bge_integrations.index import M3Index
from bge_integrations.index.manifest import FORMAT

FOLDERS = Path(__file__).parent / "formats"
#: Format: the scores that the release which wrote the folder returned for `QUESTION`, by mode.
WRITTEN = json.loads((FOLDERS / "scores.json").read_text("utf-8"))
QUESTION = "What does a panda eat?"
TEXTS = {"panda": "The giant panda eats bamboo.", "heron": "The heron eats frogs.", "熊猫": "熊猫吃竹子。"}
METADATA = {"panda": {"n": 1}, "heron": {"n": 3}, "熊猫": {"lang": "zh"}}


def unpacked(number, folder):
    with tarfile.open(FOLDERS / f"format-{number}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"format-{number}"


def test_all_earlier_formats_are_kept_here():
    assert {int(number) for number in WRITTEN} == set(range(1, FORMAT))


@pytest.mark.parametrize("number", sorted(WRITTEN))
def test_an_old_folder_is_read_as_it_was_written(number, tmp_path, m3):
    folder = unpacked(number, tmp_path)
    before = (folder / "manifest.json").read_bytes()
    for read_only in (True, False):
        with M3Index.open(folder, m3, read_only=read_only) as index:
            assert {document.id: document.text for document in index.scan()} == TEXTS
            assert {document.id: document.metadata for document in index.scan()} == METADATA
            for mode, scores in WRITTEN[number].items():
                found = {hit.id: hit.score for hit in index.search(QUESTION, mode=mode)}
                assert found == pytest.approx(scores, abs=1e-4), mode
            assert [hit.id for hit in index.search(QUESTION, filter={"n": {"$gt": 2}})] == ["heron"]
    assert (folder / "manifest.json").read_bytes() == before  # nothing is migrated


@pytest.mark.parametrize("number", sorted(WRITTEN))
def test_an_old_folder_is_changed_and_copied(number, tmp_path, m3):
    folder = unpacked(number, tmp_path)
    with M3Index.open(folder, m3) as index:
        index.add(["A bear sleeps."], ["bear"])
        index.delete(["heron"])
        index.optimize()
        index.copy_to(tmp_path / "copy")
    for place in (folder, tmp_path / "copy"):
        with M3Index.open(place, m3) as index:
            assert {document.id for document in index.scan()} == {"panda", "熊猫", "bear"}
            assert index.search("bear", k=1)[0].text in {*TEXTS.values(), "A bear sleeps."}


@pytest.mark.parametrize("number", sorted(WRITTEN))
def test_an_old_folder_refuses_what_it_cannot_be(number, tmp_path, pocket):
    folder = unpacked(number, tmp_path)
    with pytest.raises(WrongModelError):
        M3Index.open(folder, pocket)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    with pytest.raises(IndexFormatError):
        M3Index.open(folder, M3)
