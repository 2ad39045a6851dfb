"""Indexes of models with dense vectors only, defaults kept in an index, and texts without words; on every engine."""

import json

import numpy as np
import pytest
from conftest import M3
from qdrant_client import QdrantClient

from bge_integrations import load_embedder
from bge_integrations.errors import (
    EmptyTextWarning,
    IndexFormatError,
    InvalidInputError,
    NotSupportedError,
    WrongModelError,
)
from bge_integrations.index import M3Index

TEXTS = ["The giant panda eats bamboo.", "The heron eats fish.", "Rome lies on the Tiber."]
WORDLESS = ["", " \n", "***", "—…?!", "\u3000。"]


@pytest.fixture(params=["folder", "client"])
def place(request, tmp_path):
    return tmp_path / "index" if request.param == "folder" else QdrantClient(":memory:")


def manifest_of(place):
    if isinstance(place, QdrantClient):
        return place.get_collection("documents").config.metadata["bge_integrations"]
    return json.loads((place / "manifest.json").read_text("utf-8"))


def test_a_model_with_dense_vectors_only(place, base):
    with M3Index.open(place, base) as index:
        index.add(TEXTS, ids=["panda", "heron", "rome"])
        assert index.representations == ("dense",)
        assert index.defaults.mode == "dense"
        hits = index.search("What do pandas eat?")
        scores = base.encode_dense(TEXTS, kind="passage") @ base.encode_dense(["What do pandas eat?"], kind="query")[0]
        expected = dict(zip(["panda", "heron", "rome"], scores.tolist(), strict=True))
        assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
        assert all(hit.scores == {"dense": hit.score} for hit in hits)
        assert index.search("What do pandas eat?", mode="dense") == hits
        for wrong in ({"mode": "hybrid"}, {"mode": "sparse"}, {"mode": "multi_vector"}, {"weights": (1, 0, 0)}):
            with pytest.raises(InvalidInputError) as caught:
                index.search("pandas", **wrong)
            assert caught.value.argument == "mode"
            with pytest.raises(InvalidInputError):
                index.set_defaults(**wrong)
    assert manifest_of(place)["representations"] == ["dense"]
    with M3Index.open(place, base) as index:
        assert index.search("What do pandas eat?") == hits


def test_multi_vectors_of_a_model_without_them_are_refused(base, m3, tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        M3Index.open(tmp_path / "index", base, multi_vectors="float16")
    assert caught.value.argument == "multi_vectors"
    assert not (tmp_path / "index").exists()
    # the same weights without their heads are another model
    M3Index.open(tmp_path / "index", m3).close()
    with load_embedder(M3, family="encoder") as dense, pytest.raises(WrongModelError):
        M3Index.open(tmp_path / "index", dense)


def test_defaults_are_kept_in_the_index(place, pocket):
    with M3Index.open(place, pocket) as index:
        index.add(TEXTS)
        assert vars(index.defaults) == {
            "mode": "hybrid",
            "weights": (1, 1, 1),
            "fusion": "weighted",
            "candidates": 200,
        }
        usual = index.search("panda fish")
        index.set_defaults(weights=[0, 1, 0], candidates=50)
        index.set_defaults(fusion="rrf")
        by_words = index.search("panda fish")
        assert by_words == index.search("panda fish", weights=(0, 1, 0), fusion="rrf", candidates=50) != usual
        assert index.search("panda fish", weights=(1, 1, 1), fusion="weighted") == usual
        assert index.search("panda fish", mode="dense")[0].scores.keys() == {"dense"}
    with M3Index.open(place, pocket) as index:
        assert (index.defaults.weights, index.defaults.candidates) == ((0, 1, 0), 50)
        assert index.search("panda fish") == by_words
        index.set_defaults(mode="dense")
        assert index.search("panda fish")[0].scores.keys() == {"dense"}
        assert index.search("panda fish", weights=(1, 1, 1), fusion="weighted") == usual  # weights mean hybrid
        index.set_defaults(mode=None, weights=None, fusion=None, candidates=None)
        assert index.search("panda fish") == usual


@pytest.mark.parametrize(
    "wrong",
    [{"weights": (0, 0, 0)}, {"weights": "1,1,1"}, {"mode": "bm25"}, {"fusion": "max"}, {"candidates": 0}, {"k": 3}],
)
def test_wrong_defaults_change_nothing(pocket, tmp_path, wrong):
    with M3Index.open(tmp_path / "index", pocket) as index:
        index.set_defaults(candidates=30)
        before = (tmp_path / "index" / "manifest.json").read_bytes()
        with pytest.raises(InvalidInputError):
            index.set_defaults(**{"weights": (1, 0, 1), **wrong})
        assert index.defaults.candidates == 30
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before


def test_defaults_are_shared_copied_and_protected(pocket, tmp_path):
    with M3Index.open(tmp_path / "index", pocket) as index, M3Index.open(tmp_path / "index", pocket) as same:
        index.set_defaults(candidates=40)
        assert same.defaults.candidates == 40
        same.copy_to(tmp_path / "copy")
    with M3Index.open(tmp_path / "copy", pocket, read_only=True) as copy:
        assert copy.defaults.candidates == 40
        with pytest.raises(NotSupportedError):
            copy.set_defaults(candidates=1)


def test_an_index_of_an_earlier_release(pocket, tmp_path):
    path = tmp_path / "index" / "manifest.json"
    with M3Index.open(tmp_path / "index", pocket, multi_vectors="recompute") as index:
        index.add(TEXTS)
        hits = index.search("panda")
    stored = json.loads(path.read_text("utf-8"))
    added = ("representations", "defaults", "in_files")
    old = {name: value for name, value in stored.items() if name not in added} | {"format": 1}
    path.write_text(json.dumps(old), "utf-8")
    with M3Index.open(tmp_path / "index") as index:
        assert index.search("panda") == hits
        assert json.loads(path.read_text("utf-8")) == old
        index.set_defaults(candidates=9)
    assert json.loads(path.read_text("utf-8"))["defaults"]["candidates"] == 9
    for damage in (
        {"defaults": {"weights": [0, 0, 0]}},
        {"defaults": {"depth": 3}},
        {"defaults": None},
        {"representations": ["sparse"]},
        {"representations": ["dense"]},
        {"multi_vectors": None},
        {"in_files": True},
        {"in_files": "yes"},
    ):
        path.write_text(json.dumps(stored | damage), "utf-8")
        with pytest.raises(IndexFormatError):
            M3Index.open(tmp_path / "index")


@pytest.mark.parametrize("storage", [None, "recompute"])
async def test_texts_without_words_are_stored_but_never_found(place, pocket, recwarn, storage):
    with M3Index.open(place, pocket, multi_vectors=storage) as index:
        texts = [*TEXTS, *WORDLESS, "x", "7", "👍", "熊"]
        ids = [str(i) for i in range(len(texts))]
        assert index.add(texts, ids) == ids
        warned = [str(warning.message) for warning in recwarn if warning.category is EmptyTextWarning]
        assert len(warned) == 1
        assert all(f"'{i}'" in warned[0] for i in range(3, 8))
        assert [document.text for document in index.get(ids)] == texts
        found = set(map(str, {0, 1, 2, 8, 9, 10, 11}))
        for mode in ("dense", "hybrid", "multi_vector"):
            assert {hit.id for hit in index.search("panda", 20, mode=mode)} == found
            assert {hit.id for hit in await index.asearch("panda", 20, mode=mode)} == found
        assert index.dense_vectors(ids).keys() == found
        # a document that loses its words is not found by its old ones, and the other way round
        index.add(["", "The giant panda sleeps."], ["0", "3"])
        assert {hit.id for hit in index.search("giant panda", 20, mode="sparse")} == {"3"}


async def test_texts_without_words_can_be_left_out_or_refused(place, pocket, recwarn):
    with M3Index.open(place, pocket) as index:
        index.add(TEXTS, ["a", "b", "c"])
        assert await index.aadd(["", "The panda sleeps.", "..."], ["a", "d", "e"], on_empty="skip") == ["d"]
        assert sorted(document.id for document in index) == ["b", "c", "d"]
        assert index.add(WORDLESS, on_empty="skip") == []
        with pytest.raises(InvalidInputError):
            index.add(["Otters swim.", " "], on_empty="error")
        with pytest.raises(InvalidInputError) as caught:
            index.add(TEXTS, on_empty="ignore")
        assert caught.value.argument == "on_empty"
        assert len(index) == 3
    assert not [warning for warning in recwarn if warning.category is EmptyTextWarning]


def test_only_texts_without_words(tmp_path, pocket):
    with M3Index.open(tmp_path / "index", pocket) as index:
        with pytest.warns(EmptyTextWarning):
            index.add(WORDLESS)
        index.optimize()
        assert (len(index), index.search("panda")) == (len(WORDLESS), [])
        vector = np.ones(pocket.dimension, np.float32)
        assert index.search_by_vector(vector) == []
    with M3Index.open(tmp_path / "index", pocket) as index:
        assert len(index) == len(WORDLESS)
