"""The bundled pocket models: small, loaded like any checkpoint, and never a silent fallback."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bge_integrations
from bge_integrations import load_reranker
from bge_integrations.scoring import hybrid_scores, lexical_scores, max_sim

PACKAGE = Path(bge_integrations.__file__).parent
DEMO = resources.files("bge_integrations") / "demo_documents"


@pytest.fixture(scope="module")
def passages():
    return [json.loads(line) for line in (DEMO / "passages.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def questions():
    return [json.loads(line) for line in (DEMO / "questions.jsonl").read_text("utf-8").splitlines()]


def test_both_models_take_at_most_26_megabytes():
    assert sum(file.stat().st_size for file in (PACKAGE / "pocket").rglob("*") if file.is_file()) <= 26_000_000


def test_the_pocket_embedder_is_like_m3(pocket):
    out = pocket.encode(["Where do pandas live?"], kind="query", sparse=True, multi_vector=True)
    assert out.dense.shape == (1, pocket.dimension)
    assert pocket.query_instruction == ""
    assert len(out.sparse[0].indices) > 0
    assert len(out.multi_vector[0]) > 0


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi_vector", "hybrid"])
def test_the_right_passage_is_found(pocket, passages, questions, mode):
    """It is mostly among the first 20 of 499 passages, far above chance (0.04)."""
    options = {"sparse": True, "multi_vector": True, "on_truncate": "ignore"}
    found = pocket.encode([f"{p['title']}\n{p['text']}" for p in passages], kind="passage", **options)
    asked = pocket.encode([q["question"] for q in questions], kind="query", **options)
    scores = getattr(hybrid_scores(asked, found), mode)
    ids = np.array([p["id"] for p in passages])
    best = [set(ids[np.argsort(-row)[:20]]) for row in scores]
    hits = [not best_20.isdisjoint(q["answer_ids"]) for q, best_20 in zip(questions, best, strict=True)]
    assert np.mean(hits) >= 0.6
    if mode == "sparse":
        assert np.array_equal(scores, lexical_scores(asked.sparse, found.sparse))
    if mode == "multi_vector":
        assert np.array_equal(scores, max_sim(asked.multi_vector, found.multi_vector))


def test_the_reranker_is_the_one_that_transformers_loads(passages, questions):
    """The passage has token type 1 and its own <s>; a runtime that ignores either returns other scores."""
    folder = PACKAGE / "pocket" / "reranker"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    pairs = [(q["question"], p["text"][:600]) for q in questions for p in passages[:3]]
    batch = tokenizer([q for q, _ in pairs], [p for _, p in pairs], padding=True, return_tensors="pt")
    assert batch["token_type_ids"].max() == 1
    with torch.inference_mode():
        expected = model(**batch).logits[:, 0].numpy()
    with load_reranker("pocket", device="cpu") as reranker:
        np.testing.assert_allclose(reranker.score(pairs), expected, atol=1e-4)


def test_words_match_without_their_endings(pocket):
    texts = ["it regulates the cells", "regulation of a cell", "regulated cells"]
    found = pocket.encode(texts, kind="passage", sparse=True)
    assert lexical_scores(found.sparse, found.sparse).min() > 0
    shared = set.intersection(*(set(row.indices.tolist()) for row in found.sparse))
    assert len(shared) >= 2


def test_the_reranker_prefers_the_answer(passages, questions):
    """For half of the questions, the answer ranks in the top three against 30 random passages (chance: 0.1)."""
    rng = np.random.default_rng(0)
    text = {p["id"]: f"{p['title']}\n{p['text']}" for p in passages}
    places = []
    with load_reranker("pocket") as reranker:
        for question in questions:
            others = [i for i in rng.choice(sorted(text), 30, replace=False) if i not in question["answer_ids"]]
            candidates = [question["answer_ids"][0], *others]
            scores = reranker.score([(question["question"], text[i]) for i in candidates])
            places.append(int((scores > scores[0]).sum()))
    assert np.mean(np.array(places) < 3) >= 0.5
