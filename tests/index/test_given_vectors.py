"""Documents can be added with finished vectors, if they are the ones that the index's model computes."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import BASE

from bge_integrations import load_embedder
from bge_integrations.errors import EmptyTextWarning, InvalidInputError, WrongModelError
from bge_integrations.index import M3Index
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors

TEXTS = [f"Panda {i} eats {what}." for i in range(40) for what in ("bamboo", "fish")]
IDS = [f"id {i}" for i in range(len(TEXTS))]
QUERY = "Which panda eats fish?"


@pytest.fixture(scope="module")
def embeddings(pocket):
    return pocket.encode(TEXTS, kind="passage", sparse=True, multi_vector=True)


@pytest.fixture
def index(pocket):
    with M3Index.open(":memory:", pocket) as index:
        yield index


def test_finished_vectors_are_stored_as_encoded_ones_would_be(pocket, index, embeddings, batches):
    with M3Index.open(":memory:", pocket) as encoded:
        encoded.add(TEXTS, IDS)
        expected = encoded.search(QUERY, k=100, candidates=100)
    batches.clear()
    assert index.add(TEXTS, IDS, embeddings=embeddings) == IDS
    assert sum(len(batch.lengths) for batch in batches) == 1, "one text is encoded, to compare it"
    found = index.search(QUERY, k=100, candidates=100)
    assert {hit.id: hit.score for hit in found} == pytest.approx({hit.id: hit.score for hit in expected}, abs=1e-5)
    batches.clear()
    index.add(TEXTS, IDS, [{"n": 1}] * len(TEXTS), embeddings=embeddings)
    assert not batches, "texts that are stored already are not compared"
    assert index.count({"n": 1}) == len(TEXTS)


async def test_texts_without_words_are_stored_without_their_vectors(pocket, index):
    texts = ["...", "A panda.", ""]
    embeddings = pocket.encode(texts, kind="passage", sparse=True, multi_vector=True)
    with pytest.warns(EmptyTextWarning):
        await index.aadd(texts, ["dots", "panda", "nothing"], embeddings=embeddings)
    assert [hit.id for hit in await index.asearch("panda")] == ["panda"]
    assert len(index) == 3


def test_vectors_of_another_model_are_refused(pocket, index, embeddings):
    shuffled = np.roll(embeddings.dense, 1, axis=0)
    with pytest.raises(WrongModelError) as refused:
        index.add(TEXTS, IDS, embeddings=replace(embeddings, dense=shuffled))
    assert refused.value.argument == "embeddings"
    with load_embedder(BASE) as other, pytest.raises(InvalidInputError):
        index.add(TEXTS, IDS, embeddings=other.encode(TEXTS, kind="passage"))
    assert len(index) == 0


def wrong(embeddings):
    """Return pairs of what is wrong and embeddings with that."""
    dense, sparse, multi = embeddings.dense, embeddings.sparse, embeddings.multi_vector
    not_finite = dense.copy()
    not_finite[3, 2] = np.nan
    backwards = sparse.indices.copy()
    backwards[:2] = backwards[1::-1]
    return {
        "not embeddings": dense,
        "no sparse vectors": replace(embeddings, sparse=None),
        "fewer rows": replace(embeddings, dense=dense[1:]),
        "fewer dimensions": replace(embeddings, dense=dense[:, 1:]),
        "float64": replace(embeddings, dense=dense.astype(float)),
        "not finite": replace(embeddings, dense=not_finite),
        "not of unit length": replace(embeddings, dense=2 * dense),
        "token id too large": replace(embeddings, sparse=replace(sparse, indices=sparse.indices + sparse.size)),
        "token ids not ascending": replace(embeddings, sparse=replace(sparse, indices=backwards)),
        "negative weights": replace(embeddings, sparse=replace(sparse, values=-sparse.values)),
        "fewer weights": replace(embeddings, sparse=replace(sparse, values=sparse.values[1:])),
        "narrow multi-vectors": replace(embeddings, multi_vector=replace(multi, vectors=multi.vectors[:, 1:])),
        "cut multi-vectors": replace(embeddings, multi_vector=replace(multi, vectors=multi.vectors[1:])),
        "a text without multi-vectors": replace(
            embeddings, multi_vector=MultiVectors.from_rows([*list(multi)[:-1], multi[0][:0]], multi.vectors.shape[1])
        ),
    }


def test_vectors_that_do_not_fit_are_refused_before_anything_is_stored(index, embeddings):
    for what, given in wrong(embeddings).items():
        with pytest.raises(InvalidInputError) as refused:
            index.add(TEXTS, IDS, embeddings=given)
        assert refused.value.argument == "embeddings", what
    with pytest.raises(InvalidInputError):
        index.add(iter(TEXTS), IDS, embeddings=embeddings)
    with pytest.raises(InvalidInputError):
        index.add(TEXTS, IDS[1:], embeddings=embeddings)
    assert len(index) == 0


def test_representations_that_are_not_stored_may_be_missing_or_given(pocket, embeddings):
    with M3Index.open(":memory:", pocket, multi_vectors="recompute") as index:
        index.add(TEXTS[:10], embeddings=pocket.encode(TEXTS[:10], kind="passage", sparse=True))
        index.add(TEXTS, embeddings=embeddings)
        assert len(index) == len(TEXTS)
        assert index.search(TEXTS[3], 1)[0].text == TEXTS[3]


def test_no_documents_and_no_sparse_weights(pocket, index):
    nothing = pocket.encode([], kind="passage", sparse=True, multi_vector=True)
    assert index.add([], embeddings=nothing) == []
    one = pocket.encode(["A panda."], kind="passage", sparse=True, multi_vector=True)
    bare = Embeddings(one.dense, SparseVectors.from_rows([], one.sparse.size), one.multi_vector)
    with pytest.raises(InvalidInputError):
        index.add(["A panda."], embeddings=bare)
    offsets = np.zeros(2, np.int64)
    index.add(["A panda."], embeddings=replace(bare, sparse=replace(bare.sparse, offsets=offsets)))
    assert index.search("panda", mode="sparse") == []
    assert len(index.search("panda")) == 1
