"""Dense and sparse vectors of a text share one forward pass, in either order, and never mix texts."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import BASE, M3, assert_close

from bge_integrations.adapter_kit import load_dense, load_sparse
from bge_integrations.core import runtime, shared_pass
from bge_integrations.errors import InvalidInputError

TEXTS = ["Pandas eat bamboo.", "hi", "BM25 ranks documents by their words.", "hi"]


@pytest.fixture
def pair():
    return load_dense(M3), load_sparse(M3)


def assert_sparse_close(found, expected):
    assert_close(found.to_scipy().toarray(), expected.to_scipy().toarray())


@pytest.mark.parametrize("first", ["dense", "sparse"])
def test_one_pass_serves_both_views(pair, lengths, m3, first):
    order = pair if first == "dense" else pair[::-1]
    answers = {type(view).__name__: view.encode(TEXTS, "passage") for view in order}
    queries = {type(view).__name__: view.encode(["Where do pandas live?"], "query")[0] for view in order}
    assert len(lengths()) == 4  # three different texts and a query
    expected = m3.encode(TEXTS, kind="passage", sparse=True)
    assert_close(answers["DenseView"], expected.dense)
    assert_sparse_close(answers["SparseView"], expected.sparse)
    query = m3.encode(["Where do pandas live?"], kind="query", sparse=True)
    assert_close(queries["DenseView"], query.dense[0])
    assert_close(queries["SparseView"].values, query.sparse[0].values)


async def test_one_pass_serves_both_views_in_async_calls(pair, lengths, m3):
    dense, sparse = pair
    found = await dense.aencode(TEXTS, "passage"), await sparse.aencode(TEXTS, "passage")
    await sparse.aencode(["q"], "query")
    await dense.aencode(["q"], "query")
    assert len(lengths()) == 4
    expected = m3.encode(TEXTS, kind="passage", sparse=True)
    assert_close(found[0], expected.dense)
    assert_sparse_close(found[1], expected.sparse)


def test_other_batches_and_another_order_share_the_pass_too(pair, lengths, m3):
    dense, sparse = pair
    texts = [f"text {i}" for i in range(30)]
    for begin in range(0, 30, 10):
        dense.encode(texts[begin : begin + 10], "passage")
    mixed = [*texts[::-1], "a new one", texts[3]]
    found = sparse.encode(mixed, "passage")
    assert len(lengths()) == 31
    assert_sparse_close(found, m3.encode(mixed, sparse=True).sparse)
    assert_close(dense.encode(["a new one", "text 0"], "passage"), m3.encode(["a new one", "text 0"]).dense)


def computed_parts(batches):
    """Return, for each computed batch, whether it had dense and sparse vectors."""
    return [(batch.spec.pooling is not None, batch.spec.sparse) for batch in batches]


def test_one_view_alone_computes_only_its_own_output(batches):
    dense = load_dense(M3)
    dense.encode(TEXTS, "passage")
    sparse = load_sparse(M3)
    sparse.encode(TEXTS, "passage")
    del dense
    gc.collect()
    sparse.encode(TEXTS, "passage")
    assert computed_parts(batches) == [(True, False), (True, True), (False, True)]


def test_an_unrelated_sparse_adapter_costs_dense_calls_nothing_in_the_long_run(pair, batches):
    dense, sparse = pair
    for i in range(shared_pass._PATIENCE + 3):
        dense.encode([f"question {i}"], "query")
    assert computed_parts(batches) == [(True, True)] * shared_pass._PATIENCE + [(True, False)] * 3
    sparse.encode(["another question"], "query")  # only the sparse adapter encodes this
    dense.encode(["the next question"], "query")
    assert computed_parts(batches)[-2:] == [(True, True), (True, False)]


def test_a_hybrid_store_that_comes_later_shares_the_pass(pair, batches):
    dense, sparse = pair
    for i in range(shared_pass._PATIENCE + 1):
        dense.encode([f"question {i}"], "query")
    dense.encode(["of a hybrid store"], "query")
    sparse.encode(["of a hybrid store"], "query")  # computed again; from now on one pass serves both
    batches.clear()
    dense.encode(["the store's next"], "query")
    sparse.encode(["the store's next"], "query")
    assert computed_parts(batches) == [(True, True)]


@pytest.mark.parametrize(
    "settings", [{"max_length": 32}, {"passage_instruction": "Represent: "}, {"dtype": "bfloat16"}]
)
def test_views_with_different_settings_share_nothing(lengths, settings, m3):
    dense, sparse = load_dense(M3), load_sparse(M3, **settings)
    texts = ["one two", "three four"]
    dense.encode(texts, "passage")
    found = sparse.encode(texts, "passage")
    assert len(lengths()) == 4
    assert_sparse_close(found, load_sparse(M3, **settings).encode(texts, "passage"))
    assert_close(dense.encode(texts, "passage"), m3.encode(texts).dense)


def test_queries_and_passages_are_kept_apart(lengths, m3):
    settings = {"query_instruction": "Find: "}
    dense, sparse = load_dense(M3, **settings), load_sparse(M3, **settings)
    dense.encode(["pandas"], "passage")
    found = sparse.encode(["pandas"], "query")[0]
    assert len(lengths()) == 2
    assert_close(found.values, m3.encode(["Find: pandas"], sparse=True).sparse[0].values)


def test_cached_vectors_are_used_once_and_bounded(pair, batches, lengths):
    dense, sparse = pair
    texts = [f"text {i}" for i in range(10)]
    sizes = [shared_pass._size(row) for row in sparse.embedder.encode(texts, sparse=True).sparse]
    batches.clear()
    before = runtime.configure(shared_pass_bytes=sum(sizes[6:]))
    dense.encode(texts, "passage")
    sparse.encode(texts, "passage")
    assert len(lengths()) == 10 + 6
    sparse.encode(texts[6:], "passage")
    assert len(lengths()) == 10 + 6 + 4
    runtime.configure(**vars(before))


def test_unnormalised_vectors_are_not_shared(m3):
    raw, unit, sparse = load_dense(M3, normalize=False), load_dense(M3), load_sparse(M3)
    sparse.encode(TEXTS, "passage")
    assert_close(raw.encode(TEXTS, "passage"), m3.encode(TEXTS, normalize=False).dense)
    assert_close(unit.encode(TEXTS, "passage"), m3.encode(TEXTS).dense)


def test_empty_and_bad_input(pair):
    dense, sparse = pair
    assert dense.encode([], "passage").shape[0] == 0
    assert len(sparse.encode([], "passage")) == 0
    for view in pair:
        with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
            view.encode(["fine", None], "passage")
        with pytest.raises(InvalidInputError, match=r"texts.*\bstr\b"):
            view.encode("a", "query")


def test_a_model_without_a_sparse_head_is_refused():
    with pytest.raises(InvalidInputError, match=r"bge-base-en-v1.5.*sparse"):
        load_sparse(BASE)


def test_many_threads_get_the_vectors_of_their_own_texts(pair, m3):
    dense, sparse = pair
    texts = [f"text number {i % 40}" for i in range(64)]

    def both(text):
        if hash(text) % 2:
            return dense.encode([text], "query")[0], sparse.encode([text], "query")[0]
        row = sparse.encode([text], "query")[0]
        return dense.encode([text], "query")[0], row

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
    found = await asyncio.gather(*(view.aencode([text], "query") for text in texts for view in (dense, sparse)))
    assert_close(np.concatenate(found[::2]), m3.encode(texts, kind="query").dense)
