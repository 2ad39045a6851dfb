"""The core returns FlagEmbedding's numbers (tests/oracle), regardless of the rest of the batch."""

import numpy as np
import pytest
from conftest import CHECKPOINTS, assert_close

from bge_integrations import load_embedder, load_reranker
from bge_integrations.catalog import WEB_SEARCH
from bge_integrations.scoring import hybrid_scores, lexical_scores, max_sim


@pytest.fixture(scope="module")
def expected(oracle):
    return {name: case["values"] for name, case in oracle["cases"].items()}


def test_base(base, texts, expected):
    case = expected["base"]
    assert_close(base.encode(texts, kind="passage", on_truncate="ignore").dense, case["corpus"])
    assert_close(base.encode(texts, kind="query", on_truncate="ignore").dense, case["q"])
    assert_close(base.encode(texts, max_length=16, on_truncate="ignore").dense, case["short"])
    assert_close(base.encode([texts[5]]).dense[0], case["one"])
    assert_close(base.encode(texts[:2]).dense, case["t"])


def test_mean_pooling_instructions_and_truncated_dimensions(texts, expected):
    with load_embedder(
        CHECKPOINTS / "bge-base-en-v1.5",
        pooling="mean",
        truncate_dim=32,
        query_instruction="Represent this query for retrieving relevant documents: ",
        passage_instruction="Represent this document for retrieval: ",
    ) as embedder:
        for kind, key in (("query", "q"), ("passage", "corpus")):
            found = embedder.encode(texts, kind=kind, normalize=False, on_truncate="ignore").dense
            assert_close(found, expected["mean"][key])


def test_llm_embedder_tasks_are_the_published_instructions(tmp_path, texts, expected):
    folder = tmp_path / "llm-embedder"
    folder.symlink_to(CHECKPOINTS / "bge-base-en-v1.5")
    with load_embedder(folder, task="qa", pooling="mean", truncate_dim=32) as embedder:
        found = embedder.encode(texts, kind="query", normalize=False, on_truncate="ignore").dense
        assert_close(found, expected["mean"]["q"])


def check_m3(found, case):
    assert_close(found.dense, case["dense_vecs"])
    for row, weights in zip(found.sparse.to_dicts(), case["lexical_weights"], strict=True):
        assert set(map(str, row)) == set(weights)
        for token, weight in row.items():
            assert weight == pytest.approx(weights[str(token)], rel=1e-5, abs=1e-6)
    for vectors, reference in zip(found.multi_vector, case["colbert_vecs"], strict=True):
        assert_close(vectors, reference)


def test_m3(m3, texts, expected):
    case = expected["m3"]
    everything = {"sparse": True, "multi_vector": True, "max_length": 64, "on_truncate": "ignore"}
    check_m3(m3.encode(texts, **everything), case["encode"])
    check_m3(m3.encode(texts[:3], kind="query", **everything | {"max_length": 16}), case["q"])
    one = m3.encode([texts[2]], **everything)
    assert_close(one.dense[0], case["one"]["dense_vecs"])
    assert_close(one.multi_vector[0], case["one"]["colbert_vecs"])


def test_m3_narrow_multi_vector_head(texts, expected):
    case = expected["m3"]["c16"]
    with load_embedder(CHECKPOINTS / "bge-m3-c16") as embedder:
        found = embedder.encode(texts[: len(case["dense_vecs"])], multi_vector=True, max_length=64)
    assert_close(found.dense, case["dense_vecs"])
    for vectors, reference in zip(found.multi_vector, case["colbert_vecs"], strict=True):
        assert vectors.shape[1] == 16
        assert_close(vectors, reference)


def test_m3_lexical_and_max_sim_scores(m3, texts, expected):
    case = expected["m3"]
    queries = m3.encode(texts[:2], sparse=True, multi_vector=True, max_length=64)
    passages = m3.encode(texts[2:4], sparse=True, multi_vector=True, max_length=64, on_truncate="ignore")
    lexical = lexical_scores(queries.sparse, passages.sparse)
    assert_close(lexical, case["lex"])
    assert_close(lexical[0, 0], case["lex1"])
    assert_close(max_sim(queries.multi_vector, passages.multi_vector)[0, 0], case["colbert"])


@pytest.mark.parametrize(("key", "weights"), [("score", (1, 1, 1)), ("score_w", (0.4, 0.2, 0.4))])
def test_m3_hybrid_scores(m3, pairs, expected, key, weights):
    case = expected["m3"][key]
    options = {"sparse": True, "multi_vector": True, "on_truncate": "ignore"}
    queries = m3.encode([query for query, _ in pairs], kind="query", max_length=32, **options)
    passages = m3.encode([passage for _, passage in pairs], kind="passage", max_length=64, **options)
    found = hybrid_scores(queries, passages, weights)
    assert_close(np.diag(found.dense), case["dense"])
    assert_close(np.diag(found.sparse), case["sparse"])
    assert_close(np.diag(found.multi_vector), case["colbert"])
    assert_close(np.diag(found.sparse_dense), case["sparse+dense"])
    assert_close(np.diag(found.hybrid), case["colbert+sparse+dense"])


@pytest.mark.parametrize(("case", "folder"), [("reranker", "bge-reranker-v2-m3"), ("reranker_bert", "bert-reranker")])
def test_rerankers(case, folder, pairs, expected):
    values = expected[case]
    largest = np.abs(values["raw"]).max()
    with load_reranker(CHECKPOINTS / folder) as loaded:
        assert_close(loaded.score(pairs, on_truncate="ignore"), values["raw"])
        assert_close(loaded.score(pairs, normalize=True, on_truncate="ignore"), values["norm"])
        assert_close(loaded.score(pairs, max_length=48, on_truncate="ignore"), values["short"])
        assert np.abs(loaded.score(pairs[:1]) - values["one"]).max() <= 1e-5 * largest


def test_instruct_decoder(texts, expected):
    with load_embedder(CHECKPOINTS / "bge-multilingual-gemma2") as embedder:
        for kind, key in (("query", "q"), ("passage", "corpus")):
            found = embedder.encode(texts, kind=kind, max_length=48, on_truncate="ignore").dense
            assert_close(found, expected["llm"][key])


def test_in_context_examples(texts, expected):
    case = expected["icl"]
    instruction = WEB_SEARCH
    panda = "the giant panda is a bear species endemic to China."
    examples = [
        {"instruct": instruction, "query": "what is panda?", "response": panda},
        {"query": "hi", "response": "hello"},
    ]
    options = {"max_length": 48, "on_truncate": "ignore"}
    with load_embedder(CHECKPOINTS / "bge-en-icl", examples=examples) as embedder:
        assert_close(embedder.encode(texts, kind="query", **options).dense, case["q"])
        assert_close(embedder.encode(texts, kind="passage", **options).dense, case["corpus"])
        instructed = embedder.vector_settings("query")["instruction"]
        assert instructed == case["prefix"] + f"<instruct>{instruction}\n<query>" + case["suffix"]
    with load_embedder(CHECKPOINTS / "bge-en-icl") as embedder:
        assert_close(embedder.encode(texts[: len(case["q0"])], kind="query", **options).dense, case["q0"])


@pytest.mark.parametrize(
    ("case", "folder", "options"),
    [
        ("llmrerank", "bge-reranker-v2-gemma", {}),
        ("layerwise", "bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": 4}),
        ("layerwise_multi", "bge-reranker-v2-minicpm-layerwise", {"cutoff_layers": [3, 6]}),
        ("lightweight", "bge-reranker-v2.5-gemma2-lightweight", {"cutoff_layers": [5], "compress_ratio": 1}),
        (
            "lightweight_c2",
            "bge-reranker-v2.5-gemma2-lightweight",
            {"cutoff_layers": [5], "compress_ratio": 2, "compress_layers": [3]},
        ),
    ],
)
def test_llm_rerankers(case, folder, options, pairs, expected):
    values = expected[case]
    largest = np.abs(values["raw"]).max()
    with load_reranker(CHECKPOINTS / folder, **options) as loaded:
        assert_close(loaded.score(pairs, on_truncate="ignore"), values["raw"])
        assert_close(loaded.score(pairs, normalize=True, on_truncate="ignore"), values["norm"])
        assert_close(loaded.score(pairs, max_length=48, on_truncate="ignore"), values["short"])
        assert np.abs(loaded.score(pairs[:1]) - values["one"]).max() <= 1e-5 * largest


def test_a_text_gets_the_same_vector_alone_and_in_any_batch(m3, texts):
    options = {"sparse": True, "multi_vector": True, "on_truncate": "ignore"}
    together = m3.encode(texts * 3 + ["another"] * 5, **options)
    for i, text in enumerate(texts):
        alone = m3.encode([text], **options)
        assert_close(together.dense[i], alone.dense[0])
        assert_close(together.multi_vector[i], alone.multi_vector[0])
        assert together.sparse[i].indices.tolist() == alone.sparse[0].indices.tolist()
        assert_close(together.sparse[i].values, alone.sparse[0].values)


def test_dense_alone_equals_dense_with_other_outputs(m3, texts):
    """For dense vectors alone, the last layer only computes CLS tokens."""
    alone = m3.encode(texts, on_truncate="ignore").dense
    assert_close(alone, m3.encode(texts, sparse=True, on_truncate="ignore").dense)


def test_the_backbone_agrees_with_transformers(texts):
    import torch
    from transformers import AutoModel, AutoTokenizer

    for name in ("bge-base-en-v1.5", "bge-m3"):
        folder = CHECKPOINTS / name
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        with load_embedder(folder) as embedder, torch.inference_mode():
            for text in texts[:-1]:
                states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
                reference = torch.nn.functional.normalize(states[0], dim=-1)
                assert_close(embedder.encode([text]).dense[0], reference)
