"""Dense and sparse of the same texts come from one pass, whichever is asked first, and never from other texts."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import BASE, M3, assert_close

from bge_integrations.core import halves
from bge_integrations.core.halves import load_dense, load_sparse
from bge_integrations.core.residency import ModelLane
from bge_integrations.errors import InvalidInputError

TEXTS = ["Pandas eat bamboo.", "hi", "BM25 ranks documents by their words.", "hi"]


@pytest.fixture
def passes(monkeypatch):
    """The lengths in tokens of all texts that the model computes."""
    seen = []
    run = ModelLane.run

    def counted(self, sequences, between_layers):
        seen.extend(map(len, sequences))
        return run(self, sequences, between_layers)

    monkeypatch.setattr(ModelLane, "run", counted)
    return seen


@pytest.fixture
def pair():
    return load_dense(M3), load_sparse(M3)


def assert_sparse_close(found, expected):
    assert_close(found.to_scipy().toarray(), expected.to_scipy().toarray())


@pytest.mark.parametrize("first", ["dense", "sparse"])
def test_one_pass_serves_both_halves(pair, passes, m3, first):
    order = pair if first == "dense" else pair[::-1]
    answers = {type(half).__name__: half.passages(TEXTS) for half in order}
    queries = {type(half).__name__: half.query("Where do pandas live?") for half in order}
    assert len(passes) == 4  # three different texts and a query
    expected = m3.encode(TEXTS, kind="passage", sparse=True)
    assert_close(answers["DenseHalf"], expected.dense)
    assert_sparse_close(answers["SparseHalf"], expected.sparse)
    query = m3.encode(["Where do pandas live?"], kind="query", sparse=True)
    assert_close(queries["DenseHalf"], query.dense[0])
    assert_close(queries["SparseHalf"].values, query.sparse[0].values)


async def test_one_pass_serves_both_halves_in_async_calls(pair, passes, m3):
    dense, sparse = pair
    found = await dense.apassages(TEXTS), await sparse.apassages(TEXTS)
    await sparse.aquery("q")
    await dense.aquery("q")
    assert len(passes) == 4
    expected = m3.encode(TEXTS, kind="passage", sparse=True)
    assert_close(found[0], expected.dense)
    assert_sparse_close(found[1], expected.sparse)


def test_other_batches_and_an_other_order_are_served_too(pair, passes, m3):
    dense, sparse = pair
    texts = [f"text {i}" for i in range(30)]
    for begin in range(0, 30, 10):
        dense.passages(texts[begin : begin + 10])
    mixed = [*texts[::-1], "a new one", texts[3]]
    found = sparse.passages(mixed)
    assert len(passes) == 31
    assert_sparse_close(found, m3.encode(mixed, sparse=True).sparse)
    assert_close(dense.passages(["a new one", "text 0"]), m3.encode(["a new one", "text 0"]).dense)


def test_a_half_alone_computes_its_own_part_only(m3, monkeypatch):
    asked = []
    encode = type(m3).encode
    monkeypatch.setattr(type(m3), "encode", lambda self, texts, **how: asked.append(how) or encode(self, texts, **how))
    dense = load_dense(M3)
    dense.passages(TEXTS)
    sparse = load_sparse(M3)
    sparse.passages(TEXTS)
    del dense
    gc.collect()
    sparse.passages(TEXTS)
    assert [(how["dense"], how["sparse"]) for how in asked] == [(True, False), (True, True), (False, True)]
    assert not any(sparse._pair._waiting.values())


@pytest.mark.parametrize(
    "settings", [{"max_length": 32}, {"passage_instruction": "Represent: "}, {"dtype": "bfloat16"}]
)
def test_other_settings_are_another_pair(passes, settings, m3):
    dense, sparse = load_dense(M3), load_sparse(M3, **settings)
    texts = ["one two", "three four"]
    dense.passages(texts)
    found = sparse.passages(texts)
    assert len(passes) == 4
    assert_sparse_close(found, load_sparse(M3, **settings).passages(texts))
    assert_close(dense.passages(texts), m3.encode(texts).dense)


def test_queries_and_passages_are_kept_apart(passes, m3):
    settings = {"query_instruction": "Find: "}
    dense, sparse = load_dense(M3, **settings), load_sparse(M3, **settings)
    dense.passages(["pandas"])
    found = sparse.query("pandas")
    assert len(passes) == 2
    assert_close(found.values, m3.encode(["Find: pandas"], sparse=True).sparse[0].values)


def test_what_waits_is_handed_out_once_and_bounded(pair, passes, monkeypatch):
    dense, sparse = pair
    texts = [f"text {i}" for i in range(10)]
    sizes = [halves._size(row) for row in sparse.embedder.encode(texts, sparse=True).sparse]
    passes.clear()
    monkeypatch.setattr(halves, "_MOST_WAITING", sum(sizes[6:]))
    dense.passages(texts)
    sparse.passages(texts)
    assert len(passes) == 10 + 6
    sparse.passages(texts[6:])
    assert len(passes) == 10 + 6 + 4


def test_unnormalised_vectors_do_not_reach_the_pair(m3):
    raw, unit, sparse = load_dense(M3, normalize=False), load_dense(M3), load_sparse(M3)
    sparse.passages(TEXTS)
    assert_close(raw.passages(TEXTS), m3.encode(TEXTS, normalize=False).dense)
    assert_close(unit.passages(TEXTS), m3.encode(TEXTS).dense)


def test_empty_and_bad_input(pair):
    dense, sparse = pair
    assert dense.passages([]).shape[0] == 0
    assert len(sparse.passages([])) == 0
    for half in pair:
        with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
            half.passages(["fine", None])
        with pytest.raises(InvalidInputError, match="is one str"):
            half.query(["a"])


def test_a_model_without_a_sparse_head_is_refused():
    with pytest.raises(InvalidInputError, match="no sparse head"):
        load_sparse(BASE)


def test_many_threads_get_the_vectors_of_their_own_texts(pair, m3):
    dense, sparse = pair
    texts = [f"text number {i % 40}" for i in range(64)]

    def both(text):
        if hash(text) % 2:
            return dense.query(text), sparse.query(text)
        row = sparse.query(text)
        return dense.query(text), row

    with ThreadPoolExecutor(64) as threads:
        found = list(threads.map(both, texts))
    expected = m3.encode(texts, kind="query", sparse=True)
    assert_close(np.stack([vector for vector, _ in found]), expected.dense)
    for (_, row), right in zip(found, expected.sparse, strict=True):
        assert row.indices.tolist() == right.indices.tolist()
        assert_close(row.values, right.values)


async def test_many_tasks_get_the_vectors_of_their_own_texts(pair, m3):
    dense, sparse = pair
    texts = [f"text number {i % 40}" for i in range(64)]
    found = await asyncio.gather(*(half.aquery(text) for text in texts for half in (dense, sparse)))
    assert_close(np.stack(found[::2]), m3.encode(texts, kind="query").dense)
