"""Images in an M3Index: as documents, as queries, and as the pictures of a folder."""

import asyncio
import json
import shutil

import numpy as np
import pytest
from conftest import CLIP, IMAGES
from PIL import Image

from bge_integrations.cli import main
from bge_integrations.documents.folder import FolderChanges, follow_folder
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.index import M3Index

SHAPES, GREY, PALETTE = (IMAGES / name for name in ("shapes.png", "grey.png", "palette.png"))


def ids(hits):
    return [hit.id for hit in hits]


def test_images_are_documents_and_queries(clip, tmp_path, lengths):
    documents = ["a panda", {"image": SHAPES}, {"image": GREY.read_bytes(), "text": "a grey picture"}]
    names, metadatas = ["text", "path", "both"], [{}, {"file": str(SHAPES)}, {}]
    with M3Index.open(tmp_path / "index", model=clip) as index:
        assert index.add(documents, names, metadatas) == names
        assert [each.text for each in index.get(names)] == ["a panda", "", "a grey picture"]
        vectors = index.dense_vectors(names)
        for name, document in zip(names, documents, strict=True):
            assert np.allclose(vectors[name], clip.encode([document]).dense[0], atol=1e-5)
            assert index.search(document, 1)[0].id == name
            assert ids(asyncio.run(index.asearch(document, 1))) == [name]
        assert index.search("a panda", 3, filter={"file": {"$exists": True}})[0].metadata == {"file": str(SHAPES)}
        computed = len(lengths())
        index.add(documents, names, metadatas)
        assert len(lengths()) == computed
        index.add([{"image": Image.open(PALETTE)}], ["path"])
        assert index.search({"image": PALETTE}, 1)[0].score == pytest.approx(1)
        without_ids = [{"image": np.asarray(Image.open(SHAPES))}, {"image": SHAPES, "text": "red"}, {"image": SHAPES}]
        assert len(set(index.add(without_ids))) == 3


@pytest.mark.parametrize(
    "bad",
    [{"image": "missing.png"}, {"image": None}, {}, {"image": 3}, {"image": SHAPES, "caption": "a"}, {"image": "a\0b"}],
    ids=str,
)
def test_a_bad_image_is_named_and_nothing_is_stored(clip, tmp_path, bad):
    with M3Index.open(tmp_path / "index", model=clip) as index:
        with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
            index.add(["fine", bad])
        with pytest.raises(InvalidInputError):
            index.search(bad)
        assert len(index) == 0


def test_a_text_model_takes_no_images(pocket, tmp_path):
    with M3Index.open(tmp_path / "index", model=pocket) as index:
        with pytest.raises(InvalidInputError, match=r"texts\[0\]"):
            index.add([{"image": SHAPES}])
        with pytest.raises(InvalidInputError):
            index.search({"image": SHAPES})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(SHAPES, folder / "sub" / "shapes.PNG")
    shutil.copy(GREY, folder / "grey.png")
    (folder / "notes.md").write_text("Pandas eat bamboo.")
    return folder


def test_the_pictures_of_a_folder_become_documents(clip, folder, tmp_path):
    with M3Index.open(tmp_path / "index", model=clip) as index:
        assert follow_folder(index, folder) == FolderChanges(files=3, passages=3, added=3, unchanged=0, removed=0)
        found = index.search({"image": SHAPES}, 1)[0]
        assert (found.id, found.metadata["source"], found.metadata["title"]) == ("sub/shapes.PNG",) * 2 + ("shapes",)
        assert index.search("Pandas eat bamboo.", 1)[0].id == "notes.md#0"
        assert follow_folder(index, folder) == FolderChanges(files=3, passages=3, added=0, unchanged=3, removed=0)
        shutil.copy(PALETTE, folder / "grey.png")
        (folder / "sub" / "shapes.PNG").unlink()
        (folder / "notes.md").unlink()
        assert follow_folder(index, folder) == FolderChanges(files=1, passages=1, added=1, unchanged=0, removed=2)
        assert index.search({"image": PALETTE}, 1)[0].score == pytest.approx(1)
        (folder / "cut.jpg").write_bytes((IMAGES / "turned.jpg").read_bytes()[:-100])
        (folder / "text.png").write_text("not a picture")
        skipped: list[UnreadableFileError] = []
        assert follow_folder(index, folder, on_unreadable=skipped.append).unchanged == 1
        for name, error in zip(("cut.jpg", "text.png"), skipped, strict=True):
            assert name in str(error)
        with pytest.raises(UnreadableFileError, match=r"cut\.jpg"):
            follow_folder(index, folder)


def test_a_text_model_passes_over_pictures(pocket, folder, tmp_path):
    with M3Index.open(tmp_path / "index", model=pocket) as index:
        changes = follow_folder(index, folder)
        assert changes.files == 1
        assert changes.passed_over == {".png": 2}


def test_the_commands_index_and_find_pictures(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "notes.md").unlink()
    assert main(["index", "folder", "--index", "pictures", "--model", "pocket"]) == 1
    assert not (tmp_path / "pictures").exists()
    assert main(["index", "folder", "--index", "pictures", "--model", CLIP, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 2
    assert main(["search", "a grey picture", "--index", "pictures", "--top-n", "2", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["id"] for row in rows} == {"grey.png", "sub/shapes.PNG"}


def test_bge_search_takes_a_picture_with_or_without_a_question(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SHAPES, tmp_path / "shapes.png")
    with M3Index.open(tmp_path / "pictures", model=clip) as index:
        index.add([{"image": GREY}, {"image": SHAPES}, {"image": SHAPES, "text": "red"}], ["grey", "shapes", "both"])
    options = ["--image", "shapes.png", "--index", "pictures", "--top-n", "1", "--json"]
    for question, found in ((None, "shapes"), ("red", "both")):
        assert main(["search", *([question] if question else []), *options]) == 0
        row = json.loads(capsys.readouterr().out)
        assert (row["query"], row["image"], row["id"]) == (question, "shapes.png", found)
    (tmp_path / "text.png").write_text("not a picture")
    for bad in (["--image", "missing.png"], ["--image", "text.png"], ["--image", "https://127.0.0.1:9/a.png"], []):
        assert main(["search", *bad, "--index", "pictures"]) in (1, 2)
    assert main(["search", *options, "--rerank", "pocket"]) == 1
    with M3Index.open(tmp_path / "texts", model="pocket") as index:
        index.add(["red"])
    assert main(["search", "--image", "shapes.png", "--index", "texts"]) == 1
    assert not capsys.readouterr().out
