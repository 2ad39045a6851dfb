"""Copies between folders and servers carry the vectors, and are complete or no index at all."""

import threading

import pytest
from qdrant_client import QdrantClient

from bge_integrations.errors import (
    EmptyTextWarning,
    IndexFormatError,
    IndexNotFoundError,
    InvalidInputError,
    NotSupportedError,
    StorageError,
)
from bge_integrations.index import M3Index, copying
from bge_integrations.index.edge import EdgeEngine
from bge_integrations.index.server import QdrantEngine

TEXTS = [f"Panda {i} eats {what}." for i in range(20) for what in ("bamboo", "fish")]
IDS = [f"id {i}" for i in range(len(TEXTS))]
METADATAS = [{"n": i, "lang": "en"} for i in range(len(TEXTS))]
QUERY = "Which panda eats fish?"


@pytest.fixture
def client():
    return QdrantClient(":memory:")


@pytest.fixture
def original(pocket, tmp_path):
    """Return a function that opens a new index with documents."""
    opened = []

    def make(where=None, **settings):
        index = M3Index.open(tmp_path / "original" if where is None else where, pocket, **settings)
        opened.append(index)
        with pytest.warns(EmptyTextWarning):
            index.add([*TEXTS, "..."], [*IDS, "dots"], [*METADATAS, {}])
        index.set_defaults(candidates=100)
        return index

    yield make
    for index in opened:
        index.close()


def check_same(copy, index, error):
    """Check that a copy has the same documents, vectors, scores, filters and defaults."""
    assert {d.id: d for d in copy} == {d.id: d for d in index}
    assert copy.defaults == index.defaults
    for mode in index.representations:
        found, expected = ({hit.id: hit.score for hit in i.search(QUERY, k=100, mode=mode)} for i in (copy, index))
        assert found == pytest.approx(expected, abs=error if mode == "multi_vector" else 1e-6), mode
    assert copy.count({"n": {"$lt": 9}}) == 9
    assert copy.add(TEXTS[:3], IDS[:3], METADATAS[:3]) == IDS[:3]


@pytest.mark.parametrize(
    ("stored", "copied", "error"),
    [
        ("binary", "float16", 1e-3),
        ("int8", "float16", 1e-3),
        ("float32", "float32", 1e-5),
        ("recompute",) * 2 + (1e-5,),
    ],
)
def test_a_folder_is_copied_to_a_server_and_back(original, client, pocket, tmp_path, batches, stored, copied, error):
    index = original(multi_vectors=stored)
    batches.clear()
    index.copy_to(client, collection="copy")
    with M3Index.open(client, pocket, collection="copy", create=False, multi_vectors=copied) as there:
        there.copy_to(tmp_path / "back")
        there.copy_to(client, collection="again")
        with M3Index.open(tmp_path / "back", pocket, create=False, multi_vectors=copied) as back:
            assert not batches, "nothing was encoded"
            check_same(there, index, error)
            check_same(back, index, error)
    with M3Index.open(client, pocket, collection="again", create=False) as again:
        check_same(again, index, error)


@pytest.mark.parametrize(
    ("stored", "copied", "error"),
    [("float32", "binary", 0.1), ("float16", "int8", 2e-3), ("binary", "binary", 0), ("int8", "float32", 1e-5)],
)
def test_a_copy_can_store_multi_vectors_in_another_way(original, pocket, tmp_path, stored, copied, error):
    index = original(multi_vectors=stored)
    index.copy_to(tmp_path / "copy", multi_vectors=copied)
    with M3Index.open(tmp_path / "copy", pocket, multi_vectors=copied) as copy:
        check_same(copy, index, error)
        assert copy._store.shared.fields == index._store.shared.fields
    index.copy_to(tmp_path / "lean", multi_vectors="recompute")
    with M3Index.open(tmp_path / "lean", pocket, multi_vectors="recompute") as lean:
        assert len(lean) == len(index)
        with pytest.raises(InvalidInputError):
            lean.copy_to(tmp_path / "more", multi_vectors="int8")
        assert not (tmp_path / "more").exists()


def test_targets_that_cannot_be_written_are_refused(original, client, pocket, tmp_path):
    index = original()
    with pytest.raises(NotSupportedError):
        index.copy_to(client, multi_vectors="binary")
    with pytest.raises(InvalidInputError):
        index.copy_to(tmp_path / "copy", multi_vectors="residual2")
    with pytest.raises(InvalidInputError):
        index.copy_to("localhost:6333")
    assert not client.get_collections().collections
    assert not (tmp_path / "copy").exists()
    index.copy_to(client)
    with pytest.raises(IndexFormatError):
        index.copy_to(client)


@pytest.mark.parametrize("engine", [EdgeEngine, QdrantEngine])
def test_an_interrupted_copy_is_no_index_and_can_be_made_again(original, client, pocket, tmp_path, monkeypatch, engine):
    index = original()
    target = tmp_path / "copy" if engine is EdgeEngine else client
    written = []

    def fail(self, records):
        written.append(records)
        if len(written) > 1:
            raise StorageError("the disk is gone")
        write(self, records)

    write = engine.write
    with monkeypatch.context() as patched:
        patched.setattr(engine, "write", fail)
        patched.setattr(copying, "_PAGE", 10)
        with pytest.raises(StorageError):
            index.copy_to(target, multi_vectors="float16")
    with pytest.raises(IndexNotFoundError):
        M3Index.open(target, pocket, create=False)
    index.copy_to(target, multi_vectors="float16")
    with M3Index.open(target, pocket, create=False) as copy:
        assert len(copy) == len(index)


def test_documents_are_added_while_an_index_is_copied(original, client, pocket, monkeypatch):
    index = original()
    monkeypatch.setattr(copying, "_PAGE", 10)
    half, added = threading.Event(), threading.Event()
    write = QdrantEngine.write

    def wait(self, records):
        half.set()
        assert added.wait(30)
        write(self, records)

    monkeypatch.setattr(QdrantEngine, "write", wait)
    copying_thread = threading.Thread(target=index.copy_to, args=(client,))
    copying_thread.start()
    assert half.wait(30)
    index.add(["One more panda."], ["more"])
    added.set()
    copying_thread.join()
    with M3Index.open(client, pocket, create=False) as copy:
        assert {document.id for document in copy} >= {*IDS, "dots"}
