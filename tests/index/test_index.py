"""M3Index behaves the same on every engine, and returns the same hits as an exact search over plain arrays."""

import itertools
import os
import random
import re
import threading
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from functools import reduce
from importlib.metadata import version

import numpy as np
import pytest
from conftest import BASE, M3
from packaging.version import Version
from qdrant_client import QdrantClient

from bge_integrations.errors import (
    ClosedError,
    IndexFormatError,
    IndexNotFoundError,
    InvalidInputError,
    StorageError,
    WrongModelError,
)
from bge_integrations.index import Entry, Hit, M3Index, StoredDocument, records
from bge_integrations.index.edge import EdgeEngine
from bge_integrations.index.engine import SubQuery
from bge_integrations.index.folder import Folder
from bge_integrations.index.locking import ReadWriteLock
from bge_integrations.index.manifest import Manifest
from bge_integrations.index.records import NewDocument, Record, point_of
from bge_integrations.scoring import hybrid_scores, reciprocal_rank_fusion

PARTS = ("dense", "sparse", "multi_vector")
WHO = ("The panda", "A heron", "My sister", "The mayor of Rome")
DOES = ("eats", "paints", "repairs", "forgets")
WHAT = ("bamboo near the river", "a red bicycle", "the town hall", "letters from Japan")
TEXTS = [" ".join(words) + "." for words in itertools.product(WHO, DOES, WHAT)]
IDS_OF_EARLIER_RELEASES = ["7eca0791-5a96-5c24-b42c-28167e51e8f6", "791443a6-d4bb-5599-b264-d6e69cd3f520"]
QUERIES = ["Who eats bamboo?", "bicycle repair", "a letter to the mayor", "zyx"]


@pytest.fixture(params=["edge", "client", "server"])
def new_index(request, pocket, tmp_path):
    """Return a function that opens an index, empty at first; the same name opens the same index again."""
    if request.param == "server" and not os.environ.get("QDRANT_URL"):
        pytest.skip("set QDRANT_URL (and QDRANT_API_KEY) to run this on a server")
    client = QdrantClient(":memory:") if request.param == "client" else None
    run = uuid.uuid4().hex
    opened, names = [], set()

    def open_index(name="index", model=pocket, **settings):
        if request.param == "edge":
            index = M3Index.open(tmp_path / name, model, **settings)
        elif client:
            index = M3Index.open(client, model, collection=name, **settings)
        else:
            names.add(f"test-{run}-{name}")
            index = M3Index.open(
                os.environ["QDRANT_URL"],
                model,
                collection=f"test-{run}-{name}",
                api_key=os.environ.get("QDRANT_API_KEY"),
                **settings,
            )
        opened.append(index)
        return index

    yield open_index
    for index in opened:
        index.close()
    for name in names:
        QdrantClient(os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY")).delete_collection(name)


@pytest.fixture(scope="module")
def exact(pocket):
    """All scores between the queries and the texts."""
    passages = pocket.encode(TEXTS, kind="passage", sparse=True, multi_vector=True)
    queries = pocket.encode(QUERIES, kind="query", sparse=True, multi_vector=True)
    return lambda weights=(1, 1, 1): hybrid_scores(queries, passages, weights)


def check_hits(hits, scores, k, tolerance):
    """Check that the hits are a top k by `scores`, and that they have these scores."""
    assert len(hits) == min(k, len(scores))
    found = [hit.score for hit in hits]
    assert found == sorted(found, reverse=True)
    best = sorted(scores.values(), reverse=True)[:k]
    np.testing.assert_allclose(found, best, atol=tolerance)
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.id], abs=tolerance)
        assert TEXTS[int(hit.id)] == hit.text


@pytest.mark.parametrize(("storage", "tolerance"), [("float16", 2e-3), ("float32", 1e-5), ("recompute", 1e-5)])
async def test_every_mode_is_exact(new_index, exact, storage, tolerance):
    index = new_index(multi_vectors=storage)
    index.add(TEXTS, ids=map(str, range(len(TEXTS))))
    everything = {"k": 7, "candidates": len(TEXTS)}
    names = [str(i) for i in range(len(TEXTS))]
    for mode in PARTS:
        answers = index.search_many(QUERIES, mode=mode, **everything)
        for hits, row in zip(answers, getattr(exact(), mode), strict=True):
            # a sparse search only finds texts that share a token
            scores = {name: s for name, s in zip(names, row.tolist(), strict=True) if mode != "sparse" or s > 0}
            check_hits(hits, scores, 7, tolerance)
            assert all(hit.scores == {mode: hit.score} for hit in hits)
        assert answers == await index.asearch_many(QUERIES, mode=mode, **everything)
    for weights in ((1, 1, 1), (0.4, 0.2, 0.4), (1, 0.3, 0), (0, 1, 1), (0, 0, 2), (3, 0, 0)):
        answers = index.search_many(QUERIES, weights=weights, **everything)
        for hits, row in zip(answers, exact(weights).hybrid, strict=True):
            check_hits(hits, dict(zip(names, row.tolist(), strict=True)), 7, tolerance)
            for hit in hits:
                assert set(hit.scores) == {part for part, weight in zip(PARTS, weights, strict=True) if weight}
        assert answers == await index.asearch_many(QUERIES, weights=weights, **everything)
        alone = index.search(QUERIES[0], weights=weights, **everything)
        assert alone == await index.asearch(QUERIES[0], weights=weights, **everything)
        check_hits(alone, {hit.id: hit.score for hit in answers[0]}, 7, 1e-5)


@pytest.mark.parametrize("storage", ["float32", "recompute"])
def test_queries_sent_together_return_the_same_hits_as_alone(pocket, monkeypatch, storage):
    """An engine answers several queries in at most two requests for scores and one for the texts."""
    requests = []
    with M3Index.open(QdrantClient(":memory:"), pocket, multi_vectors=storage) as index:
        index.add(TEXTS)
        engine = index._store.engine
        search, fetch = engine.search, engine.fetch
        monkeypatch.setattr(engine, "search", lambda *args: requests.append("search") or search(*args))
        monkeypatch.setattr(engine, "fetch", lambda *args: requests.append("fetch") or fetch(*args))
        answers = []
        for at_once, candidates in ((1, 9), (2, 9), (10**6, 9), (10**6, 6000)):
            engine.queries_at_once = at_once
            requests.clear()
            answers.append(index.search_many([*QUERIES, *QUERIES], k=5, candidates=candidates))
            batches = 8 if candidates == 6000 else -(-8 // at_once)  # with many candidates, one query per request
            assert requests.count("fetch") == batches
            assert requests.count("search") <= 2 * batches
        assert answers[0] == answers[1] == answers[2]
        for hits, more in zip(answers[0], answers[3], strict=True):
            assert more[0].score >= hits[0].score - 1e-6


def test_hybrid_scores_all_parts_of_each_candidate(new_index, exact):
    """Even with few candidates, no score counts as 0 because another subquery found the document."""
    index = new_index(multi_vectors="float32")
    index.add(TEXTS, ids=map(str, range(len(TEXTS))))
    scores = exact()
    for i, hits in enumerate(index.search_many(QUERIES, k=5, candidates=9)):
        legs = [[int(n) for n in np.argsort(-part[i])[:9] if part[i][n] > 0] for part in (scores.dense, scores.sparse)]
        candidates = {str(n): float(scores.hybrid[i][n]) for n in set().union(*legs)}
        check_hits(hits, candidates, 5, 1e-5)
        for hit in hits:
            for part in PARTS:
                assert hit.scores[part] == pytest.approx(float(getattr(scores, part)[i][int(hit.id)]), abs=1e-5)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 0), (0, 1, 3)])
def test_reciprocal_rank_fusion(new_index, exact, weights):
    index = new_index(multi_vectors="float32")
    index.add(TEXTS, ids=map(str, range(len(TEXTS))))
    answers = index.search_many(QUERIES, k=5, fusion="rrf", weights=weights, candidates=len(TEXTS))
    for i, hits in enumerate(answers):
        parts = {part: getattr(exact(), part)[i] for part, weight in zip(PARTS, weights, strict=True) if weight}
        rankings = [
            [n for n in np.argsort(-row, kind="stable").tolist() if part != "sparse" or row[n] > 0]
            for part, row in parts.items()
        ]
        fused = dict(reciprocal_rank_fusion(rankings, weights=[w for w in weights if w]))
        # ties may be in another order, which shifts a rank by a few places
        np.testing.assert_allclose([hit.score for hit in hits], sorted(fused.values())[:-6:-1], rtol=0.02)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 0)])
def test_scores_are_scaled_over_the_candidates_before_they_are_combined(new_index, exact, weights):
    index = new_index(multi_vectors="float32")
    index.add(TEXTS, ids=map(str, range(len(TEXTS))))

    def min_max(row):
        return (row - row.min()) / (row.max() - row.min() or 1)

    def z_score(row):
        return (row - row.mean()) / (row.std() or 1)

    for fusion, scale in (("min_max", min_max), ("z_score", z_score)):
        settings = {"fusion": fusion, "weights": weights, "candidates": len(TEXTS)}
        for i, hits in enumerate(index.search_many(QUERIES, k=9, **settings)):
            parts = [w * scale(getattr(exact(), part)[i]) for part, w in zip(PARTS, weights, strict=True) if w]
            combined = np.sum(parts, axis=0) / sum(weights)
            names = map(str, range(len(TEXTS)))
            check_hits(hits, dict(zip(names, combined.tolist(), strict=True)), 9, 2e-3)
    assert index.search(QUERIES[0], filter={"$ids": ["none"]}, fusion="z_score") == []
    with pytest.raises(InvalidInputError):
        index.search(QUERIES[0], fusion="max_min")


def test_add_get_replace_delete(new_index, pocket):
    index = new_index()
    assert len(index) == 0
    assert index
    assert list(index) == index.search("anything") == []
    ids = index.add(["Pandas eat bamboo.", "Rome lies on the Tiber."], metadatas=[{"page": 1}, {"page": 2}])
    assert len(set(ids)) == len(index) == 2
    assert index.get([ids[1], "unknown", ids[0]]) == [
        Entry(ids[1], "Rome lies on the Tiber.", {"page": 2}),
        StoredDocument(ids[0], "Pandas eat bamboo.", {"page": 1}),
    ]
    assert index.add(["Pandas eat bamboo."], metadatas=[{"page": 1}]) == ids[:1]
    assert index.add(["Pandas eat bamboo."], metadatas=[{"page": 3}]) != ids[:1], "the same text of another page"
    assert index.add(["Pandas sleep."], ids=[ids[0]]) == ids[:1]
    assert index.get(ids[:1]) == [StoredDocument(ids[0], "Pandas sleep.", {})]
    expected = pocket.encode(["Pandas sleep."], kind="passage").dense[0]
    np.testing.assert_allclose(index.dense_vectors(ids[:1])[ids[0]], expected, atol=1e-6)
    assert index.delete([ids[0], "unknown"]) == 1
    assert index.delete([ids[0]]) == index.delete([]) == 0
    assert index.delete(filter={"page": 3}) == 1
    assert ids[1] in index
    assert ids[0] not in index
    assert [entry.id for entry in index] == ids[1:]
    assert [(hit.id, type(hit)) for hit in index.search("Rome")] == [(ids[1], Hit)]


def test_mixed_and_repeated_documents(new_index):
    index = new_index()
    ids = index.add(["a", "b", "a"], ids=["x", None, None])
    assert ids[0] == "x"
    assert len(index) == 3
    assert index.add(["a", "a", "a"]) == [ids[2]] * 3
    assert len(index) == 3


def test_an_id_given_to_another_document_of_the_call(new_index):
    index = new_index()
    (made,) = index.add(["b"])
    for texts, ids in ((["b, edited", "b"], [made, None]), (["b", "b, edited"], [None, made])):
        with pytest.raises(InvalidInputError, match=f"'{made}'"):
            index.add(texts, ids=ids)
    assert index.add(["b", "b"], ids=[made, None]) == [made, made]
    assert [entry.text for entry in index] == ["b"]


def test_each_document_is_hashed_once(pocket, monkeypatch):
    digested = []
    digest = records.digest
    monkeypatch.setattr(records, "digest", lambda value: digested.append(value) or digest(value))
    with M3Index.open(":memory:", pocket) as index:
        index.add(TEXTS[:3], metadatas=[{"n": i} for i in range(3)])
        assert sorted(map(str, digested)) == sorted([*TEXTS[:3], *(str({"n": i}) for i in range(3))])


def test_ids_derived_by_earlier_releases(pocket):
    with M3Index.open(":memory:", pocket) as index:
        ids = index.add(["Pandas eat bamboo.", "Ä\n"], metadatas=[{"b": [1, 2.0], "a": None}, {}])
    assert ids == IDS_OF_EARLIER_RELEASES


def test_long_texts_are_shortened_in_the_repr(pocket):
    with M3Index.open(":memory:", pocket) as index:
        (identifier,) = index.add(["bamboo " * 50])
        (hit,) = index.search("bamboo")
        assert repr(hit) == f"Hit(id={identifier!r}, score={hit.score:.4f}, text={('bamboo ' * 50)[:59] + '…'!r})"
        assert len(repr(index.get([identifier]))) < 200


def test_a_failed_flush_is_repeated(pocket, monkeypatch):
    """A later call must not assume that an earlier call's documents are on disk."""
    flushed = []
    with M3Index.open(":memory:", pocket) as index:
        flush = index._store.engine.flush

        def failing():
            raise StorageError("no")

        monkeypatch.setattr(index._store.engine, "flush", failing)
        with pytest.raises(StorageError, match="no"):
            index.add(["one"])
        monkeypatch.setattr(index._store.engine, "flush", lambda: flushed.append(flush()))
        index.add(["one"])
        assert len(flushed) == 1
        index.add(["one"])
        assert len(flushed) == 1


def test_a_document_that_is_deleted_during_a_search(pocket):
    """On a server, other clients can do that between two requests of a search."""

    class Forgetful(QdrantClient):
        def retrieve(self, *args, **kwargs):
            return super().retrieve(*args, **kwargs)[1:]

    with M3Index.open(Forgetful(":memory:"), pocket, multi_vectors="recompute") as index:
        index.add(TEXTS[:3])
        assert len(index.search(QUERIES[0], k=3)) == 2


async def test_async_twins(new_index):
    index = new_index()
    async with index:
        ids = await index.aadd(TEXTS[:3], metadatas=[{"n": i} for i in range(3)])
        assert await index.aget(ids) == index.get(ids)
        hits = await index.asearch(TEXTS[1], k=1)
        assert hits == index.search(TEXTS[1], k=1)
        assert hits[0].id == ids[1]
        assert await index.adelete(filter={"n": {"$lt": 2}}) == 2
        await index.aflush()
        assert len(index) == 1
    with pytest.raises(ClosedError):
        await index.asearch("x")


def test_search_by_vector(new_index, pocket):
    index = new_index()
    index.add(TEXTS[:20])
    query = pocket.encode([QUERIES[0]], kind="query").dense[0]
    assert [hit.id for hit in index.search_by_vector(query, k=3)] == [
        hit.id for hit in index.search(QUERIES[0], k=3, mode="dense")
    ]
    for vector in (query[:-1], [query], "text", None, [float("nan")] * len(query)):
        with pytest.raises(InvalidInputError, match="vector"):
            index.search_by_vector(vector)


def test_reopening(new_index, pocket):
    index = new_index(multi_vectors="float32")
    ids = index.add(TEXTS[:5])
    found = index.search(QUERIES[0], k=3)
    index.close()
    again = new_index(model=None)
    assert again.embedder.name == "pocket"
    assert again.search(QUERIES[0], k=3) == found
    assert again.add(TEXTS[:5]) == ids
    again.close()
    for wrong in (M3, BASE):
        with pytest.raises((WrongModelError, InvalidInputError), match=r"pocket|sparse"):
            new_index(model=wrong)
    with pytest.raises(WrongModelError, match="max_length=512"):
        new_index(model="pocket", max_length=64)
    with pytest.raises(InvalidInputError, match="multi_vectors='float32'"):
        new_index(multi_vectors="recompute")
    with pytest.raises(InvalidInputError, match="'int4'"):
        new_index(quantization="int4")
    assert len(new_index()) == 5, "and a refused opening leaves it as it was"


def test_only_settings_of_an_embedder_are_accepted(tmp_path, caplog):
    for wrong, message in (
        ({"max_lenght": 9}, "'max_lenght'; .*max_length"),
        ({"colour": "red"}, "'colour'; .*api_key, .*device"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            M3Index.open(tmp_path / "index", "pocket", **wrong)
        assert not (tmp_path / "index").exists()
    caplog.set_level("INFO", "bge_integrations.index")
    with M3Index.open(tmp_path / "index", "pocket", query_instruction="Find: ", passage_instruction="Text: ") as index:
        assert index.embedder.query_instruction == "Find: "
        index.add(["a"])
        index.optimize()
    assert [record.getMessage().split()[0] for record in caplog.records] == ["created", "optimising", "optimised"]
    with pytest.raises(WrongModelError, match="instruction='Text: '"):
        M3Index.open(tmp_path / "index")
    with M3Index.open(tmp_path / "index", passage_instruction="Text: ") as index:
        assert len(index) == 1


def test_copies_and_opening_without_creating(pocket, tmp_path):
    with M3Index.open(":memory:", pocket) as index:
        index.add(TEXTS[:5], metadatas=[{"n": i} for i in range(5)])
        index.copy_to(tmp_path / "copy")
        with pytest.raises(IndexFormatError, match="copy"):
            index.copy_to(tmp_path / "copy")
        index.add(["later"])
        with M3Index.open(tmp_path / "copy", create=False) as copy:
            assert list(copy) == list(index.scan({"n": {"$exists": True}}))
            assert copy.search(TEXTS[0], 3, filter={"n": {"$lt": 9}}) == index.search(
                TEXTS[0], 3, filter={"n": {"$lt": 9}}
            )
            copy.add(["kept?"])
    with M3Index.open(tmp_path / "copy") as copy:
        assert len(copy) == 6
    with pytest.raises(IndexNotFoundError, match="typo"):
        M3Index.open(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()
    client = QdrantClient(":memory:")
    with pytest.raises(IndexNotFoundError, match="documents"):
        M3Index.open(client, pocket, create=False)


def test_an_optimised_engine_scores_exactly(pocket, tmp_path):
    """The vectors are numerous and wide enough to be quantised and searched with an HNSW graph."""
    count, width = 4000, 1024
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count + 1, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query, vectors = vectors[-1], vectors[:-1]
    manifest = replace(Manifest.of(pocket, "recompute", "int8", in_folder=True), dimension=width)
    engine = EdgeEngine(Folder(tmp_path / "index"), manifest, True, ReadWriteLock())
    engine.write([Record(NewDocument.of("", {}, str(i)), {"dense": vector}) for i, vector in enumerate(vectors)])
    engine.optimize()
    exact = {point_of(str(i)): float(score) for i, score in enumerate(vectors @ query)}
    some = sorted(exact)[:50]
    answers = engine.search(
        [
            SubQuery("dense", query, 200, ef_search=200),
            SubQuery("dense", query, count, exact=True),
            SubQuery("dense", query, len(some), among=some),
        ]
    )
    assert [len(answer) for answer in answers] == [200, count, 50]
    assert {point for point, _ in answers[2]} == set(some)
    for answer in answers:
        np.testing.assert_allclose([score for _, score in answer], [exact[point] for point, _ in answer], atol=1e-6)
    assert len({point for point, _ in answers[0]} & set(sorted(exact, key=exact.get)[-200:])) > 100
    engine.close()


def test_quantised_search_scores_exactly(new_index, exact):
    index = new_index(quantization="int8", multi_vectors="float32")
    index.add(TEXTS, ids=map(str, range(len(TEXTS))))
    index.optimize()
    for hits, row in zip(index.search_many(QUERIES, k=5, candidates=60), exact().hybrid, strict=True):
        scores = {str(i): score for i, score in enumerate(row.tolist())}
        check_hits(hits, scores, 5, 1e-5)


def test_a_writer_that_waits_for_a_copy_does_not_block_searches():
    lock = ReadWriteLock()
    waits = threading.Event()
    done = []
    wait_for = lock._changed.wait_for

    def waiting(condition):
        waits.set()
        return wait_for(condition)

    def run(held, name):
        with held():
            done.append(name)

    with lock.snapshot():
        lock._changed.wait_for = waiting
        writer = threading.Thread(target=run, args=(lock.write, "write"), daemon=True)
        writer.start()
        assert waits.wait(60)
        searcher = threading.Thread(target=run, args=(lock.read, "search"), daemon=True)
        searcher.start()
        searcher.join(60)
        assert done == ["search"]
    writer.join(60)
    assert done == ["search", "write"]


VALUES = [None, "a", "b", "", 1, 2, 2.0, 2.5, -3, True, False, ["a", "b"], [1, 2], [], {"y": 1}, 2**53 + 1]
DATES = ["2020-01-01", "2020-01-01T10:00:00", "2020-06-01T00:00:00Z", "2021-03-04T01:00:00+02:00"]
FILTERS = [
    *({"x": value} for value in ("a", "", 1, 2, 2.0, 2.5, True, False, 2**53 + 1)),
    *({"x": {"$ne": value}} for value in ("a", 2, True)),
    *({"x": {"$in": values}} for values in (["a", "b"], [1, 2.5], ["a", 2, True], [], ("b",))),
    *({"x": {"$nin": values}} for values in (["a"], [2, False], [])),
    *({"x": bounds} for bounds in ({"$gt": 1}, {"$gte": 2, "$lt": 2.5}, {"$lte": -3}, {"$gt": 5, "$lt": 4})),
    *({"x": {"$exists": there}} for there in (True, False)),
    {"x.y": 1},
    {"x.y": {"$exists": True}},
    *({"when": bounds} for bounds in ({"$gte": "2020-01-01T10:00"}, {"$gt": "2020-01-01", "$lt": "2021-01-01"})),
    {"when": {"$lt": "2021-03-03T23:30:00+00:00"}},
    {"when": "2020-01-01"},
    {"n": {"$gte": 2, "$gt": 7}},
    {"n": {"$lt": 9, "$lte": 3}},
    {"n": {"$gt": 2, "$gte": 0, "$lt": 9, "$lte": 20}},
    {"when": {"$gt": "2020-01-01", "$gte": "2020-06-01"}},
    {"x": 2**53},
    {"n": {"$lt": 9}, "x": "a"},
    {"$and": [{"n": {"$gte": 3}}, {"$or": [{"x": "a"}, {"x": 2}]}]},
    {"$or": [{"x": {"$in": []}}, {"n": 4}]},
    {"$not": {"$or": [{"x": {"$exists": True}}, {"n": {"$gt": 10}}]}},
    {"$not": {"$not": {"x": "b"}}},
    {"n": {"$gt": 1, "$in": [1, 2, 3], "$ne": 3}},
    {'"odd.key [1]"': "here"},
    {"schlüssel": "ß"},
    *({"x": {"$contains": text}} for text in ("a", "B", "", "nowhere")),
    *({"x": {"$icontains": text}} for text in ("A", "B")),
    {"schlüssel": {"$contains": "ß"}},
    {"x": {"$contains": "a", "$icontains": "B"}},
    {'"odd.key [1]"': {"$contains": "er"}},
    {"when": {"$contains": "2020-0"}, "n": {"$gte": 2}},
    {"$or": [{"$not": {"x": {"$contains": "a"}}}, {"n": 0}]},
    {"x.y": {"$contains": "e"}},
]
OF_IDS = [({"$ids": ["1", "3", "unknown"]}, "13"), ({"$ids": ["1", "3"], "n": 3}, "3"), ({"$ids": []}, "")]


def matches(filter, metadata):
    """Apply a filter: a second, independent implementation."""
    return all(_matches_one(key, value, metadata) for key, value in filter.items())


def _matches_one(key, wanted, metadata):
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(matches(part, metadata) for part in wanted)
    if key == "$not":
        return not matches(wanted, metadata)
    value = metadata
    for name in [key.strip('"')] if '"' in key else key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [] if value is None else [value]
    operators = wanted if isinstance(wanted, dict) else {"$eq": wanted}
    return all(
        isinstance(value, str) and operand in value
        if operator == "$contains"
        else isinstance(value, str) and operand.lower() in value.lower()
        if operator == "$icontains"
        else _holds(operator, operand, values)
        for operator, operand in operators.items()
    )


def _holds(operator, operand, values):
    if operator in ("$ne", "$nin"):
        return not _holds({"$ne": "$eq", "$nin": "$in"}[operator], operand, values)
    if operator == "$exists":
        return bool(values) == operand
    if operator in ("$eq", "$in"):
        operands = operand if operator == "$in" else [operand]
        return any(_kind(v) == _kind(o) and v == o for v in values for o in operands)
    comparable = [c for c in map(_comparable, values) if type(c) is type(_comparable(operand))]
    compare = {"$gt": "__gt__", "$gte": "__ge__", "$lt": "__lt__", "$lte": "__le__"}[operator]
    return any(getattr(c, compare)(_comparable(operand)) for c in comparable)


def _kind(value):
    return "number" if type(value) in (int, float) else type(value)


def _comparable(value):
    if type(value) in (int, float):
        return float(value)
    try:
        date = datetime.fromisoformat(value)
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None


def test_filters_mean_the_same_everywhere(new_index, request):
    index = new_index()
    if "client" in request.node.name and Version(version("qdrant-client")) < Version("1.19"):
        pytest.skip("until 1.19 the client's local mode took True for 1; servers never did")
    metadatas = [{"n": i, "x": value} for i, value in enumerate(VALUES)]
    metadatas += [{"n": i, "when": date} for i, date in enumerate(DATES, start=len(VALUES))]
    metadatas += [{}, {"odd.key [1]": "here", "odd": {"key": 1}}, {"schlüssel": "ß", "it's": 1, 'no " way': 2}]
    texts = [f"document {i} {TEXTS[i]}" for i in range(len(metadatas))]
    order = random.Random(0).sample(range(len(texts)), len(texts))
    index.add([texts[i] for i in order], ids=[str(i) for i in order], metadatas=[metadatas[i] for i in order])
    for filter in FILTERS:
        expected = {str(i) for i, metadata in enumerate(metadatas) if matches(filter, metadata)}
        assert {entry.id for entry in index.scan(filter)} == expected, filter
        assert index.count(filter) == len(expected), filter
        for mode in ("dense", "hybrid"):
            assert {hit.id for hit in index.search("document", k=50, mode=mode, filter=filter)} == expected, filter
    for filter, ids in OF_IDS:
        assert {entry.id for entry in index.scan(filter)} == set(ids), filter
    assert index.count({"$not": {"$ids": ["1"]}}) == len(index) - 1
    assert {entry.id: entry.metadata for entry in index} == {str(i): m for i, m in enumerate(metadatas)}


class Tag(str, Enum):  # noqa: UP042 a StrEnum says its value where this one says its name
    RED = "red"


def test_string_enum_members_are_stored_as_their_text(new_index):
    index = new_index()
    index.add(["a", "b"], metadatas=[{"tag": Tag.RED}, {"tag": "blue"}])
    for filter in ({"tag": Tag.RED}, {"tag": {"$in": [Tag.RED, "green"]}}, {"tag": {"$nin": ["blue"]}}):
        assert [entry.text for entry in index.scan(filter)] == ["a"], filter
    assert [entry.text for entry in index.scan({"tag": {"$ne": Tag.RED}})] == ["b"]


WRONG_FILTERS = [
    ({"$ids": "ab"}, r"filter\['\$ids'\].*list"),
    ({"$ids": [1]}, r"filter\['\$ids'\].*str"),
    ({"x": {"$contains": 1}}, r"filter\['x'\]\['\$contains'\].*str"),
    ({"x": {"$icontains": ["a"]}}, r"filter\['x'\]\['\$icontains'\].*str"),
    ("year > 2000", "must be a dict"),
    ({}, "empty"),
    ({"": 1}, r"filter\[''\]"),
    ({1: 2}, r"filter\[1\]"),
    ({"x": None}, r"\{'\$exists': False\}"),
    ({"x": [1, 2]}, r"'\$in': \[...\]"),
    ({"x": {}}, "no operator"),
    ({"x": {"$like": "a"}}, r"\['\$like'\]; use \$eq"),
    ({"x": {"$gt": "soon"}}, "ISO date"),
    ({"x": {"$gt": None}}, "ISO date"),
    ({"x": {"$gt": True}}, "ISO date"),
    ({"x": {"$gt": 1, "$lt": "2020-01-01"}}, r"filter\['x'\] .*number.* date"),
    ({"x": float("nan")}, "nan"),
    ({"x": 2**63}, "64 bits"),
    ({"x": {"$in": [1, -(2**70)]}}, "64 bits"),
    ({"x": {"$gt": 10**400}}, "ISO date"),
    ({"x": {"$gt": "9999-12-31T23:59:59-23:00"}}, "ISO date"),
    (reduce(lambda inner, _: {"$not": inner}, range(40), {"x": 1}), "32"),
    ({"x": {"$in": "abc"}}, r"list.*'abc'"),
    ({"x": {"$in": [None]}}, "compares with None"),
    ({"x": {"$exists": 1}}, "True or False"),
    ({"$and": []}, r"\$and.*list"),
    ({"$or": {"x": 1}}, r"\$or.*list"),
    ({"$not": [{"x": 1}]}, "must be a dict"),
    ({"$nor": [{"x": 1}]}, r"\$nor .*\$and, \$or, \$not"),
    ({"a..b": 1}, "'a..b'"),
    ({".a": 1}, "'.a'"),
    ({'say "hi"': 1}, 'say "hi"'),
    ({"a[0]": 1}, r"'a\[0\]'"),
    ({"$or": [{"x": 1}, {"y": {"$gt": []}}]}, r"\$or'\]\[1\]\['y'\]\['\$gt'\]"),
    ({"number": {"$gt": "2020-01-01"}}, r"filter\['number'\].*numbers"),
    ({"x": "\ud800"}, "lone surrogate"),
    ({"x": {"$in": ["\ud800"]}}, "lone surrogate"),
    ({"\ud800": 1}, "lone surrogate"),
]


@pytest.mark.parametrize(("filter", "message"), WRONG_FILTERS, ids=lambda value: str(value)[:30])
def test_wrong_filters(pocket, filter, message):
    with M3Index.open(":memory:", pocket) as index:
        index.add(["a"], metadatas=[{"number": 3}])
        with pytest.raises(InvalidInputError, match=message):
            index.search("a", filter=filter)
        with pytest.raises(InvalidInputError, match=message):
            index.delete(filter=filter)
        assert len(index) == 1


WRONG_DOCUMENTS = [
    ({"texts": "one text"}, "wrap it"),
    ({"texts": 3}, "list of texts"),
    ({"texts": ["a", None]}, r"texts\[1\] must be a str"),
    ({"texts": ["a", "\ud800"]}, r"texts\[1\] .*lone surrogate"),
    ({"texts": ["a", "b"], "ids": ["x"]}, "more texts than ids"),
    ({"texts": ["a"], "ids": ["x", "y"]}, "more ids or metadatas than texts"),
    ({"texts": ["a", "b"], "ids": ["x", "x"]}, r"ids\[1\].*'x'"),
    ({"texts": ["a"], "ids": [""]}, r"ids\[0\]"),
    ({"texts": ["a"], "ids": [7]}, r"ids\[0\] must be a str"),
    ({"texts": ["a"], "ids": "x"}, "ids must be a list"),
    ({"texts": ["a"], "metadatas": {"x": 1}}, "metadatas must be a list"),
    ({"texts": ["a"], "metadatas": ["x"]}, r"metadatas\[0\] must be a dict"),
    ({"texts": ["a", "b"], "metadatas": [{}]}, "more texts than metadatas"),
    ({"texts": ["a"], "metadatas": [{"x": {"y": [datetime(2020, 1, 1)]}}]}, r"\['x'\]\['y'\]\[0\] is datetime"),
    ({"texts": ["a"], "metadatas": [{"x": float("inf")}]}, "inf"),
    ({"texts": ["a"], "metadatas": [{"x": (1, 2)}]}, "tuple"),
    ({"texts": ["a"], "metadatas": [{"x": np.float32(1)}]}, "float32"),
    ({"texts": ["a"], "metadatas": [{"x": 2**64}]}, str(2**64)),
    ({"texts": ["a"], "metadatas": [{1: "x"}]}, r"metadatas\[0\].*\b1\b"),
    ({"texts": ["a"], "metadatas": [{"x": "\udcff"}]}, "surrogate"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_DOCUMENTS, ids=lambda value: str(value)[:30])
async def test_wrong_documents_leave_nothing_behind(pocket, arguments, message):
    with M3Index.open(":memory:", pocket) as index:
        with pytest.raises(InvalidInputError, match=message):
            index.add(**arguments)
        with pytest.raises(InvalidInputError, match=message):
            await index.aadd(**arguments)
        assert len(index) == 0


def test_wrong_searches(pocket):
    with M3Index.open(":memory:", pocket) as index:
        index.add(["a"])
        for arguments, message in [
            ({"query": None}, "NoneType"),
            ({"k": 0}, "k=0"),
            ({"k": 2.0}, "k=2.0"),
            ({"k": True}, "k=True"),
            ({"mode": "colbert"}, "mode='colbert'"),
            ({"fusion": "sum"}, "fusion='sum'"),
            ({"weights": (0, 0, 0)}, "weights=(0, 0, 0)"),
            ({"weights": (1, 1)}, "weights=(1, 1)"),
            ({"weights": (1, -1, 1)}, "weights=(1, -1, 1)"),
            ({"weights": (1, float("nan"), 1)}, "weights=(1, nan, 1)"),
            ({"weights": 3}, "weights=3"),
            ({"candidates": 0}, "candidates=0"),
        ]:
            with pytest.raises(InvalidInputError, match=re.escape(message)):
                index.search(**{"query": "a", **arguments})
        with pytest.raises(InvalidInputError, match=r"texts.*\bstr\b"):
            index.search_many("a")
        with pytest.raises(InvalidInputError, match="delete"):
            index.delete()
        with pytest.raises(InvalidInputError, match="delete"):
            index.delete(["a"], {"x": 1})
        assert index.search_many([]) == []
        assert len(index.search("a", k=50, candidates=1)) == 1


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("localhost:6333", "http://localhost:6333"),
        ("127.0.0.1:6333/", "http://127.0.0.1:6333/"),
        ("[::1]:6333", "http://[::1]:6333"),
        ("x1.eu-central.aws.cloud.qdrant.io:6333", "http://x1.eu-central.aws.cloud.qdrant.io:6333"),
        ("HTTPS://qdrant.example.com", "https://qdrant.example.com"),
        ("grpc://qdrant:6334", "http://qdrant:6334"),
    ],
)
def test_an_address_without_http_is_no_folder(pocket, tmp_path, monkeypatch, address, meant):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=rf"did you mean '{re.escape(meant)}'") as caught:
        M3Index.open(address, pocket)
    assert caught.value.argument == "path_or_url"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["a:6333", "notes:2024-05", "localhost", "./localhost:6333", "sub/localhost:6333"])
def test_other_names_with_a_colon_are_folders(pocket, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    M3Index.open(name, pocket).close()
    assert (tmp_path / name).is_dir()


def test_invalid_locations_are_refused(pocket):
    with pytest.raises(InvalidInputError, match="int"):
        M3Index.open(3, pocket)
    with pytest.raises(InvalidInputError, match="collection=''"):
        M3Index.open(QdrantClient(":memory:"), pocket, collection="")
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9"):
        M3Index.open("http://127.0.0.1:9", pocket)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        M3Index.open(QdrantClient("127.0.0.1", grpc_port=9, prefer_grpc=True, check_compatibility=False), pocket)
    client = QdrantClient(":memory:")
    client.create_collection("theirs", vectors_config={})
    with pytest.raises(IndexFormatError, match="'theirs'"):
        M3Index.open(client, pocket, collection="theirs")
