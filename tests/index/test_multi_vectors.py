"""Multi-vectors in files beside the engine: exact, never outdated, compacted, copied, and absent from older indexes."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient

from bge_integrations.errors import (
    EmptyTextWarning,
    IndexFormatError,
    InvalidInputError,
    NotSupportedError,
    StorageError,
)
from bge_integrations.index import M3Index, compacting, vector_files
from bge_integrations.index.folder import Folder
from bge_integrations.index.manifest import Manifest
from bge_integrations.scoring import max_sim

TEXTS = [f"Panda {i} eats {w} by the {p}." for i in range(8) for w in ("bamboo", "fish") for p in ("river", "tower")]
IDS = [f"id {i}" for i in range(len(TEXTS))]
QUERY = "Which panda eats fish by the river?"
#: The largest error of max-sim with the pocket model, whose multi-vectors have 64 dimensions.
ERRORS = {"float32": 1e-5, "float16": 1e-3, "int8": 2e-3, "binary": 0.1}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def small_files(monkeypatch):
    """A file takes about 5 documents."""
    monkeypatch.setattr(vector_files, "_FILE_BYTES", 4000)


def files_of(folder):
    return {path.name for path in (folder / "multi_vectors").iterdir()}


def check_scores(index, pocket, error):
    """Check that every document has the max-sim of its present text; return the scores by id."""
    documents = list(index)
    query = pocket.encode([QUERY], kind="query", multi_vector=True).multi_vector
    passages = pocket.encode([d.text for d in documents], kind="passage", multi_vector=True).multi_vector
    hits = index.search(QUERY, k=1000, mode="multi_vector", candidates=1000)
    expected = dict(zip([d.id for d in documents], max_sim(query, passages)[0].tolist(), strict=True))
    found = {hit.id: hit.score for hit in hits}
    assert found.keys() == expected.keys()
    for identifier, score in found.items():
        assert score == pytest.approx(expected[identifier], abs=error), identifier
        assert index.get([identifier])[0].text == next(d.text for d in documents if d.id == identifier)
    return found


@pytest.mark.parametrize("code", ["float32", "float16", "int8", "binary"])
def test_each_code_scores_reopens_and_is_kept(folder, pocket, code, small_files):
    with M3Index.open(folder, pocket, multi_vectors=code) as index:
        index.add(TEXTS, IDS, [{"n": i} for i in range(len(TEXTS))])
        found = check_scores(index, pocket, ERRORS[code])
        hits = index.search(QUERY, k=50, mode="multi_vector", filter={"n": {"$lt": 5}})
        assert {hit.id: hit.score for hit in hits} == {i: found[i] for i in IDS[:5]}
        together = index.search_many([QUERY, "Rome", QUERY], k=50, mode="multi_vector", candidates=50)
        for hits in (together[0], together[2]):  # encoded together, queries differ in their last digits
            assert {hit.id: hit.score for hit in hits} == pytest.approx(found, abs=1e-5)
        few = index.search(QUERY, k=3, mode="multi_vector", candidates=3)
        assert all(hit.score == found[hit.id] for hit in few)
    with M3Index.open(folder, pocket) as index:
        assert check_scores(index, pocket, ERRORS[code]) == found
        index.add(["One more panda."], ["more"])
        assert {i: s for i, s in check_scores(index, pocket, ERRORS[code]).items() if i != "more"} == found
    with pytest.raises(InvalidInputError):
        M3Index.open(folder, pocket, multi_vectors="recompute")


def test_replaced_relabelled_and_deleted_documents(folder, pocket):
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS, IDS)
        index.add([f"Heron {i} sleeps in the tall tree." for i in range(10)], IDS[:10])
        index.add(TEXTS[10:20], IDS[10:20], [{"new": True}] * 10)  # the same texts: only the metadata is replaced
        index.delete(IDS[20:25])
        with pytest.warns(EmptyTextWarning):
            index.add(["", "***"], ["empty", IDS[25]])
        hits = index.search(QUERY, k=1000, mode="multi_vector", candidates=1000)
        assert {hit.id for hit in hits} == {*IDS[:20], *IDS[26:]}
        index.delete(["empty", IDS[25]])
        check_scores(index, pocket, ERRORS["int8"])
        index.delete(IDS)
        assert index.search(QUERY, mode="multi_vector") == []
        index.add(TEXTS[:3], IDS[:3])
        check_scores(index, pocket, ERRORS["int8"])


def test_compacting_drops_the_rows_of_replaced_documents(folder, pocket, small_files):
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS, IDS)
        before = files_of(folder)
        index.optimize()
        assert files_of(folder) == before, "nothing is unused"
        index.delete(IDS[10:])
        index.add([f"Heron {i} sleeps." for i in range(5)], IDS[:5])
        found = check_scores(index, pocket, ERRORS["int8"])
        index.optimize()
        assert check_scores(index, pocket, ERRORS["int8"]) == found
        rows = sum((folder / "multi_vectors" / name).stat().st_size for name in files_of(folder))
        texts = [document.text for document in index]
        used = len(pocket.encode(texts, kind="passage", multi_vector=True).multi_vector.vectors) * (64 + 4)
        assert used <= rows < used / (1 - compacting._UNUSED) + 1
        index.delete(IDS)
        index.optimize()
        assert not any((folder / "multi_vectors" / name).stat().st_size for name in files_of(folder))
        index.add(TEXTS, IDS)
        found = check_scores(index, pocket, ERRORS["int8"])
    with M3Index.open(folder, pocket) as index:
        assert check_scores(index, pocket, ERRORS["int8"]) == found


def test_compacting_while_others_write_and_search(folder, pocket, small_files, monkeypatch):
    monkeypatch.setattr(compacting, "_MOVED", 2)
    monkeypatch.setattr(compacting, "_PAGE", 3)
    done = threading.Event()

    def write(writer):
        for step in range(12):
            texts = [f"Heron {writer} {step} {i} sleeps by the {'river' if i % 2 else 'tower'}." for i in range(6)]
            index.add(texts, [f"{writer} {i}" for i in range(6)])
            index.delete([f"{writer} {step % 6}"])

    def search():
        while not done.is_set():
            hits = index.search(QUERY, k=100, mode="multi_vector")
            assert all(-1.01 < hit.score < 1.01 for hit in hits)

    def optimize():
        while not done.is_set():
            index.optimize()

    with M3Index.open(folder, pocket) as index, ThreadPoolExecutor(8) as pool:
        index.add(TEXTS, IDS)
        working = [pool.submit(search), pool.submit(search), pool.submit(optimize)]
        try:
            list(pool.map(write, range(3)))
        finally:
            done.set()
        for work in working:
            work.result()
        found = check_scores(index, pocket, ERRORS["int8"])
    with M3Index.open(folder, pocket) as index:
        assert check_scores(index, pocket, ERRORS["int8"]) == found


def test_an_interrupted_compaction_loses_nothing(folder, pocket, small_files, monkeypatch):
    """The old files stay until the new places are on disk, and the next optimisation removes them."""
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS, IDS)
        index.delete(IDS[::2])
        found = check_scores(index, pocket, ERRORS["int8"])

        def fail(*_):
            raise StorageError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(vector_files.VectorFiles, "remove", fail)
            with pytest.raises(StorageError):
                index.optimize()
        assert check_scores(index, pocket, ERRORS["int8"]) == found
    with M3Index.open(folder, pocket) as index:
        assert check_scores(index, pocket, ERRORS["int8"]) == found
        before = files_of(folder)
        index.optimize()
        assert files_of(folder) < before
        assert check_scores(index, pocket, ERRORS["int8"]) == found


def test_copies(folder, tmp_path, pocket):
    with M3Index.open(folder, pocket, multi_vectors="binary") as index:
        index.add(TEXTS, IDS)
        found = check_scores(index, pocket, ERRORS["binary"])
        index.copy_to(tmp_path / "copy")
        index.delete(IDS)
        index.optimize()
    for settings in ({"read_only": True}, {}):
        with M3Index.open(tmp_path / "copy", pocket, **settings) as copy:
            assert check_scores(copy, pocket, ERRORS["binary"]) == found


def test_damaged_files(folder, pocket):
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS, IDS)
    (path,) = (folder / "multi_vectors").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with M3Index.open(folder, pocket) as index:
        with pytest.raises(StorageError):
            index.search(QUERY)
        assert len(index.search(QUERY, mode="dense")) == 10
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(IndexFormatError):
        M3Index.open(folder, pocket)
    path.parent.mkdir()
    path.write_bytes(whole)
    with M3Index.open(folder, pocket) as index:
        check_scores(index, pocket, ERRORS["int8"])


def test_an_interrupted_creation_leaves_no_files(folder, pocket):
    folder.mkdir()
    Folder(folder).begin()
    (folder / "multi_vectors").mkdir()
    (folder / "multi_vectors" / "rows-000001").write_bytes(bytes(1000))
    (folder / ".lock").unlink()
    with M3Index.open(folder, pocket) as index:
        assert not files_of(folder)
        index.add(TEXTS, IDS)
        check_scores(index, pocket, ERRORS["int8"])


def old_index(folder, pocket):
    """Make an empty index as release 0.1 made it: format 2, and the engine stores the multi-vectors."""
    manifest = replace(Manifest.of(pocket, "float16", None, in_folder=False), format=2)
    named = {
        "dense": edge.EdgeVectorParams(size=manifest.dimension, distance=edge.Distance.Dot),
        "multi_vector": edge.EdgeVectorParams(
            size=manifest.multi_vector_dimension,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=0),
        ),
    }
    opened = Folder(folder)
    shard = opened.begin()
    shard.mkdir()
    sparse = {"sparse": edge.EdgeSparseVectorParams()}
    edge.EdgeShard.create(str(shard), edge.EdgeConfig(vectors=named, sparse_vectors=sparse)).close()
    opened.complete(shard, manifest)
    opened.close()
    stored = json.loads((folder / "manifest.json").read_text())
    del stored["in_files"]
    (folder / "manifest.json").write_text(json.dumps(stored))


def test_an_index_of_an_earlier_release_works_as_before(folder, tmp_path, pocket):
    old_index(folder, pocket)
    with M3Index.open(folder, pocket, multi_vectors="float16") as index:
        index.add(TEXTS, IDS)
        index.add(["Heron sleeps."], IDS[:1])
        found = check_scores(index, pocket, ERRORS["float16"])
        index.optimize()
        assert check_scores(index, pocket, ERRORS["float16"]) == pytest.approx(found)
        index.set_defaults(candidates=100)
        index.copy_to(tmp_path / "copy")
    assert not (folder / "multi_vectors").exists()
    for path in (folder, tmp_path / "copy"):
        with M3Index.open(path, pocket, read_only=True) as index:
            assert index.defaults.candidates == 100
            assert check_scores(index, pocket, ERRORS["float16"]) == pytest.approx(found)
    with pytest.raises(InvalidInputError):
        M3Index.open(folder, pocket, multi_vectors="binary")


def test_a_server_keeps_its_own(pocket):
    for code in ("int8", "binary"):
        with pytest.raises(NotSupportedError) as caught:
            M3Index.open(QdrantClient(":memory:"), pocket, multi_vectors=code)
        assert caught.value.argument == "multi_vectors"
    client = QdrantClient(":memory:")
    with M3Index.open(client, pocket) as index:
        index.add(TEXTS[:4], IDS[:4])
        check_scores(index, pocket, ERRORS["float16"])
    assert client.get_collection("documents").config.metadata["bge_integrations"]["multi_vectors"] == "float16"


def test_defaults_by_width(pocket):
    assert Manifest.of(pocket, None, None, in_folder=True).multi_vectors == "int8"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pocket, "multi_vector_dimension", 1024)
        assert Manifest.of(pocket, None, None, in_folder=True).multi_vectors == "binary"
        assert Manifest.of(pocket, None, None, in_folder=False).multi_vectors == "float16"


def test_an_add_that_fails_in_the_engine_leaves_no_document(folder, pocket, monkeypatch):
    """Rows without a place are only unused space."""
    with M3Index.open(folder, pocket) as index:
        index.add(TEXTS[:4], IDS[:4])

        def fail(*_):
            raise StorageError("no")

        with monkeypatch.context() as patched:
            patched.setattr(index._store.engine, "_update", fail)
            with pytest.raises(StorageError):
                index.add(["Panda 0 sleeps.", *TEXTS[4:8]], IDS[:1] + IDS[4:8])
        assert len(index) == 4
        check_scores(index, pocket, ERRORS["int8"])
        index.add(["Panda 0 sleeps.", *TEXTS[4:8]], IDS[:1] + IDS[4:8])
        check_scores(index, pocket, ERRORS["int8"])
    assert np.all([path.stat().st_size % 68 == 0 for path in (folder / "multi_vectors").iterdir()])
