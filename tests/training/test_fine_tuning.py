"""Fine-tuning with an evaluation before and after: the figures, the card, and a folder that everybody loads."""

import json
import shutil

import numpy as np
import pytest
import yaml
from conftest import BASE
from servers import app_server, wait_until_ready

from bge_integrations import load_embedder, load_reranker
from bge_integrations.demo_documents import bundled_passages
from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation import Dataset
from bge_integrations.training import (
    TrainingRow,
    evaluation_data,
    fine_tuning,
    generated_questions,
    plan_fine_tuning,
    read_rows,
)

TEXTS = ["Kenya lies in Africa.", "the walrus operator", ""]
SETTINGS = {"device": "cpu", "max_steps": 2, "batch_size": 4, "passage_max_length": 256, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def rows():
    generated = generated_questions(bundled_passages()[:60])
    others = [row.pos[0] for row in generated]
    return read_rows(
        [TrainingRow(row.query, row.pos, (others[i - 1], others[i - 2])) for i, row in enumerate(generated)]
    )


@pytest.fixture(scope="module")
def plan(rows):
    return plan_fine_tuning("embedder", rows, "pocket", held_out=0.5, group_size=3, **SETTINGS)


@pytest.fixture(scope="module")
def embedder(plan, tmp_path_factory):
    return plan.run(tmp_path_factory.mktemp("trained") / "my model")


@pytest.fixture(scope="module")
def reranker(rows, tmp_path_factory):
    plan = plan_fine_tuning("reranker", rows, "pocket", held_out=0.5, group_size=3, **SETTINGS)
    return plan.run(tmp_path_factory.mktemp("trained") / "reranker")


def record_of(tuned):
    return json.loads((tuned.folder / "fine_tuning.json").read_text("utf-8"))


def test_the_held_out_queries_are_not_trained_on(plan, rows):
    trained, asked = {row.query for row in plan.rows}, set(plan.evaluation.queries.values())
    assert not trained & asked
    assert trained | asked == {row.query for row in rows}
    assert plan.statistics.leaked_queries.count == plan.statistics.leaked_passages.count == 0
    assert plan.statistics.passage_tokens.limit == 256


def test_an_embedder_is_measured_before_and_after_in_each_mode(embedder, plan):
    methods = [
        f"{when}, {mode}" for mode in ("dense", "sparse", "multi_vector", "hybrid") for when in ("before", "after")
    ]
    assert list(embedder.gain.results) == ["BM25", *methods]
    assert embedder.gain.queries == len(plan.evaluation.judged)
    comparison = embedder.gain.comparisons["dense"]
    means = [embedder.gain.results[f"{when}, dense"].means["nDCG@10"] for when in ("before", "after")]
    assert comparison.difference == pytest.approx(means[1] - means[0])
    assert len(embedder.losses) == 2


def test_a_reranker_is_measured_on_the_candidates_of_bm25(reranker):
    assert list(reranker.gain.results) == ["BM25", "before", "after"]
    assert reranker.gain.results["before"].means != reranker.gain.results["BM25"].means


@pytest.mark.parametrize("name", ["embedder", "reranker"])
def test_the_card_and_the_record_have_the_figures(name, request, rows):
    tuned = request.getfixturevalue(name)
    card = (tuned.folder / "README.md").read_text("utf-8")
    _, front_matter, text = card.split("---\n", 2)
    about = yaml.safe_load(front_matter)
    assert about["pipeline_tag"] == {"embedder": "sentence-similarity", "reranker": "text-ranking"}[name]
    for result in tuned.gain.results.values():
        assert f"{result.means['nDCG@10']:.3f}" in text
    assert "max_steps" in text
    record = record_of(tuned)
    assert record["gain"] == json.loads(json.dumps(tuned.gain.to_dict()))
    assert (record["losses"], record["settings"]["max_steps"]) == (list(tuned.losses), 2)


def test_the_cards_snippets_run(embedder, reranker, monkeypatch):
    """They load the folder in this package, sentence-transformers and FlagEmbedding."""
    for tuned in (embedder, reranker):
        monkeypatch.chdir(tuned.folder.parent)
        snippets = (tuned.folder / "README.md").read_text("utf-8").split("```python\n")[1:]
        assert len(snippets) == 3
        for snippet in snippets:
            exec(snippet.partition("```")[0], {})


def test_all_three_libraries_compute_the_same_vectors(embedder):
    from FlagEmbedding import BGEM3FlagModel
    from sentence_transformers import SentenceTransformer

    with load_embedder(embedder.folder, device="cpu") as ours:
        expected = ours.encode(TEXTS, kind="passage").dense
    assert np.abs(SentenceTransformer(str(embedder.folder), device="cpu").encode(TEXTS) - expected).max() < 1e-4
    flag_model = BGEM3FlagModel(str(embedder.folder), use_fp16=False, devices="cpu", colbert_dim=64)
    theirs = flag_model.encode(TEXTS)["dense_vecs"]
    assert np.abs(theirs - expected).max() < 1e-4
    with load_embedder("pocket", device="cpu") as before:
        assert np.abs(before.encode(TEXTS, kind="passage").dense - expected).max() > 1e-3


def test_all_three_libraries_compute_the_same_scores(reranker):
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    pairs = [("Where is Kenya?", text) for text in TEXTS if text]
    with load_reranker(reranker.folder, device="cpu") as ours:
        expected = ours.score(pairs)
    theirs = CrossEncoder(str(reranker.folder), device="cpu").predict(pairs, activation_fn=lambda logits: logits)
    assert np.abs(np.ravel(theirs) - expected).max() < 1e-3
    scores = FlagReranker(str(reranker.folder), use_fp16=False, devices="cpu").compute_score(pairs)
    assert np.abs(np.array(scores) - expected).max() < 1e-3


def test_the_server_serves_them(embedder, reranker):
    with app_server(models=[str(embedder.folder)], rerankers=[str(reranker.folder)]) as served:
        wait_until_ready(served)
        answer = served.api.post("/v1/embeddings", json={"input": TEXTS[:2]})
        assert answer.status_code == 200, answer.text
        with load_embedder(embedder.folder, device="cpu") as ours:
            expected = ours.encode(TEXTS[:2], kind="passage").dense
        assert np.abs(np.array([row["embedding"] for row in answer.json()["data"]]) - expected).max() < 1e-5
        answer = served.api.post("/rerank", json={"query": "Kenya", "documents": TEXTS[:2]})
        assert answer.status_code == 200, answer.text


def test_an_interrupted_evaluation_is_done_by_the_same_call(plan, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fine_tuning, "measure_gain", interrupt)
        with pytest.raises(KeyboardInterrupt):
            plan.run(tmp_path / "model")
    written = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert json.loads((tmp_path / "model" / "fine_tuning.json").read_text("utf-8"))["gain"] is None
    tuned = plan.run(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == written
    assert record_of(tuned)["gain"] is not None
    with pytest.raises(InvalidInputError) as error:  # it is complete now
        plan.run(tmp_path / "model")
    assert error.value.argument == "output"


def test_data_of_its_own_and_no_evaluation(rows, tmp_path):
    own = Dataset(queries={"q": rows[0].query}, documents={"d": rows[0].pos[0], "e": "other"}, qrels={"q": {"d": 1}})
    plan = plan_fine_tuning("embedder", rows, "pocket", evaluation=own, **SETTINGS)
    assert (len(plan.rows), plan.evaluation) == (len(rows), own)
    assert plan.statistics.leaked_exactly.count == 1
    without = plan_fine_tuning("embedder", rows, "pocket", held_out=0, unified=False, group_size=1, **SETTINGS)
    tuned = without.run(tmp_path / "model")
    assert (without.evaluation, tuned.gain) == (None, None)
    assert (tuned.folder / "README.md").is_file()


def test_the_evaluated_passages_are_limited():
    train = read_rows([TrainingRow(f"train {i}", (f"text {i}",), ("shared",)) for i in range(50)])
    held_out = read_rows([TrainingRow("q", ("a",), ("shared",)), TrainingRow("Q!", ("b",))])
    data = evaluation_data(held_out, train, most_documents=10)
    assert len(data.documents) == 10
    assert {"a", "b", "shared"} < set(data.documents.values())
    assert list(data.queries.values()) == ["q"]
    assert {data.documents[key] for key in data.qrels["q0"]} == {"a", "b"}
    assert data.documents == evaluation_data(held_out, train, most_documents=10).documents
    assert len(evaluation_data(held_out, train).documents) == 53


@pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")
def test_what_the_model_needs_to_be_loaded_is_used_for_the_statistics_and_the_evaluation(rows, tmp_path):
    snapshot = tmp_path / "models--owner--small" / "snapshots" / ("0" * 40)
    shutil.copytree(BASE, snapshot)
    (tmp_path / "models--owner--small" / "refs").mkdir()
    (tmp_path / "models--owner--small" / "refs" / "mine").write_text("0" * 40)
    where = {"cache_folder": str(tmp_path), "revision": "mine", "local_files_only": True, "pooling": "cls"}
    settings = SETTINGS | where | {"query_instruction": "", "group_size": 2}
    plan = plan_fine_tuning("embedder", rows, "owner/small", held_out=0.5, **settings)
    assert (plan.model, plan.source.folder) == ("owner/small", snapshot)
    assert plan.run(tmp_path / "model").gain.results.keys() == {"BM25", "before", "after"}


def test_bad_arguments_are_found_before_anything_is_computed(rows):
    for settings, argument in (
        ({"temperature": 0}, "temperature"),
        ({"language": "klingon"}, "language"),
        ({"held_out": 2}, "held_out"),
        ({"temprature": 1}, "temprature"),
    ):
        with pytest.raises(InvalidInputError) as error:
            plan_fine_tuning("embedder", rows, "pocket", **{"held_out": 0.5, **settings})
        assert error.value.argument == argument
