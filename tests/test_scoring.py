"""Scores match their formulas, and do not depend on the batch."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_close

from bge_integrations import MultiVectors, SparseVector, SparseVectors
from bge_integrations.errors import InvalidInputError
from bge_integrations.scoring import TopK, hybrid_scores, lexical_scores, max_sim, reciprocal_rank_fusion


def random_sparse(rng, n, size=50):
    rows = []
    for _ in range(n):
        indices = np.sort(rng.choice(size, rng.integers(0, 12), replace=False)).astype(np.int32)
        rows.append(SparseVector(indices, rng.random(len(indices), np.float32)))
    return SparseVectors.from_rows(rows, size)


def random_vectors(rng, n, dim=8, shortest=1):
    """Return unit vectors; negative products are likely, and padding with zeros would clamp them to 0."""
    rows = [rng.standard_normal((rng.integers(shortest, 9), dim)).astype(np.float32) for _ in range(n)]
    return MultiVectors.from_rows([row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows], dim)


def test_lexical_scores():
    rng = np.random.default_rng(0)
    queries, passages = random_sparse(rng, 7), random_sparse(rng, 11)
    expected = [
        [sum(w * p.get(token, 0) for token, w in q.items()) for p in passages.to_dicts()] for q in queries.to_dicts()
    ]
    found = lexical_scores(queries, passages)
    assert found.dtype == np.float32
    assert_close(found, expected)


@pytest.mark.parametrize("block", [1, 64, 1 << 24])
def test_max_sim(monkeypatch, block):
    monkeypatch.setattr("bge_integrations.scoring._BLOCK", block)
    rng = np.random.default_rng(1)
    queries, passages = random_vectors(rng, 6), random_vectors(rng, 17)
    expected = [[(q @ p.T).max(axis=1).mean() for p in passages] for q in queries]
    found = max_sim(queries, passages)
    assert found.dtype == np.float32
    assert_close(found, expected)
    assert found.min() < 0 or found.max() > 0


def test_a_negative_max_sim_stays_negative_beside_longer_passages():
    query = MultiVectors.from_rows([np.array([[1, 0]], np.float32)], 2)
    opposite, long = np.array([[-1, 0]], np.float32), np.array([[0, 1]] * 9, np.float32)
    assert max_sim(query, MultiVectors.from_rows([opposite, long], 2)).tolist() == [[-1, 0]]


def test_texts_without_vectors_score_zero():
    rng = np.random.default_rng(2)
    queries, passages = random_vectors(rng, 5, shortest=0), random_vectors(rng, 9, shortest=0)
    none = MultiVectors.from_rows([np.empty((0, 8), np.float32)], 8)
    assert max_sim(none, passages).tolist() == [[0.0] * 9]
    assert max_sim(queries, none).tolist() == [[0.0]] * 5
    for i, q in enumerate(queries):
        for j, p in enumerate(passages):
            alone = (q @ p.T).max(axis=1).mean() if len(q) and len(p) else 0
            assert max_sim(queries, passages)[i, j] == pytest.approx(alone, abs=1e-6)


def test_empty_sides_have_shapes():
    rng = np.random.default_rng(3)
    assert max_sim(MultiVectors.from_rows([], 8), random_vectors(rng, 3)).shape == (0, 3)
    assert max_sim(random_vectors(rng, 3), MultiVectors.from_rows([], 8)).shape == (3, 0)
    assert lexical_scores(SparseVectors.from_rows([], 50), random_sparse(rng, 3)).shape == (0, 3)


def test_models_must_not_be_mixed():
    rng = np.random.default_rng(4)
    with pytest.raises(InvalidInputError, match=r"\b50\b.*\b60\b"):
        lexical_scores(random_sparse(rng, 2, size=50), random_sparse(rng, 2, size=60))
    with pytest.raises(InvalidInputError, match=r"\b8\b.*\b9\b"):
        max_sim(random_vectors(rng, 2, dim=8), random_vectors(rng, 2, dim=9))


def test_hybrid_scores_are_the_weighted_sums(m3):
    options = {"sparse": True, "multi_vector": True}
    queries, passages = m3.encode(["what is panda?", "hi"], **options), m3.encode(["panda", "x", "a bear"], **options)
    found = hybrid_scores(queries, passages, (0.2, 0.3, 0.5))
    assert_close(found.dense, queries.dense @ passages.dense.T)
    assert_close(found.hybrid, 0.2 * found.dense + 0.3 * found.sparse + 0.5 * found.multi_vector)
    assert_close(found.sparse_dense, (0.2 * found.dense + 0.3 * found.sparse) / 0.5)
    for matrix in (found.dense, found.sparse, found.multi_vector, found.sparse_dense, found.hybrid):
        assert matrix.dtype == np.float32
        assert matrix.shape == (2, 3)
    assert_close(hybrid_scores(queries, passages, (0, 0, 2)).hybrid, found.multi_vector)


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, -1), (0, 0, 0), (float("nan"), 1, 1)])
def test_unusable_weights(m3, weights):
    out = m3.encode(["a"], sparse=True, multi_vector=True)
    with pytest.raises(InvalidInputError, match="weights="):
        hybrid_scores(out, out, weights)


@pytest.mark.parametrize("missing", ["dense", "sparse", "multi_vector"])
def test_a_missing_representation_is_an_error(m3, missing):
    out = m3.encode(["a"], sparse=True, multi_vector=True)
    with pytest.raises(InvalidInputError, match=f"{missing}=True"):
        hybrid_scores(out, replace(out, **{missing: None}))


def test_reciprocal_rank_fusion():
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]], k=60)
    assert [i for i, _ in fused] == ["b", "a", "d", "c"]
    assert dict(fused)["b"] == pytest.approx(1 / 62 + 1 / 61)
    assert dict(reciprocal_rank_fusion([["a"], ["a"]], weights=[2, 0.5]))["a"] == pytest.approx(2.5 / 61)
    assert reciprocal_rank_fusion([]) == []
    with pytest.raises(InvalidInputError):
        reciprocal_rank_fusion([["a", "a"]])
    with pytest.raises(InvalidInputError, match="weights"):
        reciprocal_rank_fusion([["a"]], weights=[])
    with pytest.raises(InvalidInputError, match="k=-1"):
        reciprocal_rank_fusion([["a"]], k=-1)


def test_top_k_is_a_sort_of_everything_that_was_added():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(200), 1).astype(np.float32)  # many ties
    beside = rng.random(200).astype(np.float32)
    for k in (1, 7, 199, 500):
        top = TopK(k)
        for first in range(0, 200, 30):
            part = slice(first, first + 30)
            top.add(np.arange(200)[part], scores[part], {"dense": beside[part]})
        order = np.argsort(-scores, kind="stable")[:k]
        assert top.documents.tolist() == order.tolist()
        assert top.scores.tolist() == scores[order].tolist()
        assert top.other_scores["dense"].tolist() == beside[order].tolist()
