"""Real checkpoints against published vectors and scores: `pytest -m hub`, on a machine with the hub."""

import json

import numpy as np
import pytest
from conftest import TESTS

from bge_integrations import catalog, load_embedder, load_reranker
from bge_integrations.scoring import hybrid_scores, lexical_scores, max_sim

pytestmark = pytest.mark.hub


def entries(*kinds):
    """Return the published values of these kinds for models that this release runs."""
    found = json.loads((TESTS / "published_values.json").read_text("utf-8"))["entries"]
    return [
        pytest.param(entry, id=f"{entry['kind']}-{entry['model'].split('/')[-1]}-{i}")
        for i, entry in enumerate(found)
        if entry["kind"] in kinds and catalog.find(entry["model"])
    ]


def assert_published(found, entry):
    np.testing.assert_allclose(found, entry["expected"], rtol=entry.get("rtol", 0), atol=entry.get("atol", 0))


@pytest.mark.parametrize("entry", entries("dense_prefix", "dense_full"))
def test_dense(entry):
    with load_embedder(entry["model"], dtype="float32") as embedder:
        found = embedder.encode([(entry["instruction"] or "") + entry["text"]]).dense[0]
    chosen = found[entry["indices"]] if "indices" in entry else found
    assert_published(chosen, entry)


@pytest.mark.parametrize("entry", entries("similarity_matrix"))
def test_similarities(entry):
    with load_embedder(entry["model"], dtype="float32", query_instruction=entry["query_instruction"] or "") as embedder:
        queries = embedder.encode(entry["queries"], kind="query").dense
        passages = embedder.encode(entry["passages"], kind="passage").dense
    assert_published(queries @ passages.T, entry)


@pytest.mark.parametrize("entry", entries("lexical_weights"))
def test_lexical_weights(entry):
    with load_embedder(entry["model"], dtype="float32") as embedder:
        found = embedder.encode([entry["text"]], sparse=True).sparse.to_dicts()[0]
    assert {str(token) for token in found} == set(entry["expected"])
    assert all(abs(weight - entry["expected"][str(token)]) <= entry["atol"] for token, weight in found.items())


@pytest.mark.parametrize("entry", entries("lexical_matching_score", "colbert_score", "hybrid_score"))
def test_m3_scores(entry):
    with load_embedder(entry["model"], dtype="float32") as embedder:
        queries = embedder.encode(entry["queries"], kind="query", sparse=True, multi_vector=True)
        passages = embedder.encode(entry["passages"], kind="passage", sparse=True, multi_vector=True)
    if entry["kind"] == "lexical_matching_score":
        found = lexical_scores(queries.sparse, passages.sparse)
    elif entry["kind"] == "colbert_score":
        found = max_sim(queries.multi_vector, passages.multi_vector)
    else:
        found = hybrid_scores(queries, passages, tuple(entry["weights"])).hybrid
    assert_published(found, entry)


@pytest.mark.parametrize("entry", entries("rerank"))
def test_rerankers(entry):
    with load_reranker(entry["model"], dtype="float32") as reranker:
        found = reranker.score(entry["pairs"], normalize=entry["activation"] != "none (logit)")
    assert_published(found, entry)


@pytest.mark.parametrize("entry", entries("token_ids"))
def test_token_ids(entry):
    with load_embedder(entry["model"]) as embedder:
        tokenizer = embedder._session.model.tokenizer
        ids = tokenizer.ids([entry["text"]])[0].tolist()
    if entry["add_special_tokens"]:
        ids = [*tokenizer.text.parts[0].tolist(), *ids, *tokenizer.text.parts[1].tolist()]
    if "expected_prefix" in entry:
        assert ids[: len(entry["expected_prefix"])] == entry["expected_prefix"]
    else:
        assert ids == entry["expected"]
