"""Evaluation: measures match their formulas, searches match the full score matrix, and errors say what is wrong."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from conftest import BASE, M3, RERANKER, assert_close

from bge_integrations.errors import EmptyTextWarning, InvalidInputError
from bge_integrations.evaluation import (
    Candidates,
    Dataset,
    Run,
    bm25,
    compare,
    evaluate,
    find_candidates,
    measure_run,
    rerank,
    tune_weights,
)
from bge_integrations.evaluation.__main__ import main
from bge_integrations.evaluation.measures import bootstrap_intervals, randomisation_test
from bge_integrations.index import M3Index
from bge_integrations.scoring import hybrid_scores

MODES = ("dense", "sparse", "multi_vector", "hybrid")


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """The bundled questions and 120 bundled documents, including all the answers, in BEIR's layout."""
    bundled = resources.files("bge_integrations") / "demo_documents"
    passages = [json.loads(line) for line in bundled.joinpath("passages.jsonl").read_text("utf-8").splitlines()]
    questions = [json.loads(line) for line in bundled.joinpath("questions.jsonl").read_text("utf-8").splitlines()]
    answers = {key for question in questions for key in question["answer_ids"]}
    others = [passage for passage in passages if passage["id"] not in answers]
    chosen = [passage for passage in passages if passage["id"] in answers] + others[: 120 - len(answers)]
    folder = tmp_path_factory.mktemp("beir") / "demo"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": row["id"], "title": row["title"], "text": row["text"]} for row in chosen]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked = [{"_id": f"q{i}", "text": question["question"]} for i, question in enumerate(questions)]
    asked.append({"_id": "unjudged", "text": "Who judged this?"})
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")
    judged = [f"q{i}\t{key}\t1\n" for i, question in enumerate(questions) for key in question["answer_ids"]]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged), "utf-8")
    (folder / "qrels" / "bare.tsv").write_text("".join(judged), "utf-8")
    return folder


@pytest.fixture(scope="module")
def demo(demo_folder):
    return Dataset.read(demo_folder)


@pytest.fixture(scope="module")
def report(demo, pocket, pocket_reranker):
    return evaluate(demo, pocket, reranker=pocket_reranker, rerank_depth=5, on_truncate="ignore")


def tiny(qrels, documents=("a", "b", "c", "x")):
    return Dataset(queries={key: f"query {key}" for key in qrels}, documents={d: d for d in documents}, qrels=qrels)


# Measures


def test_a_baseline_is_measured_without_the_query_itself(pocket):
    data = Dataset(queries={"q": "pandas"}, documents={"q": "pandas", "d": "giant pandas"}, qrels={"q": {"d": 1}})
    report = evaluate(data, pocket, modes=["dense"], baseline=Run("ours", {"q": [("q", 2.0), ("d", 1.0)]}))
    assert [report[name].per_query["MRR@10"] for name in ("ours", "dense")] == [{"q": 1}] * 2
    with pytest.raises(InvalidInputError, match="do not include 'sparse'"):
        find_candidates(data, pocket, modes=["hybrid"]).run("sparse")


def test_figures_computed_by_hand():
    data = tiny({"q1": {"a": 2, "b": 1}, "q2": {"a": 1}, "q3": {"c": 1, "x": -1}, "q4": {"x": 0}})
    run = Run("mine", {"q1": [("b", 3), ("x", 2), ("a", 1)], "q3": [("x", 5), ("c", 5)], "unjudged": [("a", 1)]})
    result = measure_run(data, run)
    q1 = (1 + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert result.per_query["nDCG@10"] == pytest.approx({"q1": q1, "q2": 0, "q3": 1 / math.log2(3), "q4": 0})
    assert result.per_query["MRR@10"] == pytest.approx({"q1": 1, "q2": 0, "q3": 0.5, "q4": 0})
    assert result.per_query["MAP"] == pytest.approx({"q1": (1 + 2 / 3) / 2, "q2": 0, "q3": 0.5, "q4": 0})
    assert result.per_query["Recall@100"] == pytest.approx({"q1": 1, "q2": 0, "q3": 1, "q4": 0})
    assert result.means["nDCG@10"] == pytest.approx((q1 + 1 / math.log2(3)) / 4)


def test_ndcg_and_cutoffs_on_random_runs_with_ties():
    rng = np.random.default_rng(0)
    documents = [f"d{i}" for i in range(300)]
    qrels = {f"q{i}": {d: int(rng.integers(4)) for d in rng.choice(documents, 20, replace=False)} for i in range(20)}
    run = Run(
        "random",
        {q: list(zip(rng.permutation(documents).tolist(), (rng.integers(9) // np.arange(1, 301)).tolist(), strict=True))
         for q in qrels},
    )  # fmt: skip
    found = measure_run(tiny(qrels, documents), run).per_query
    discounts = 1 / np.log2(np.arange(2, 12))
    for query, grades in qrels.items():
        order = [document for document, _ in run.rankings[query]]
        gains = np.array([grades.get(document, 0) for document in order[:10]])
        ideal = np.sort(list(grades.values()))[::-1][:10]
        assert found["nDCG@10"][query] == pytest.approx(gains @ discounts / (ideal @ discounts))
        hits = [grades.get(document, 0) > 0 for document in order]
        assert found["Recall@100"][query] == pytest.approx(sum(hits[:100]) / sum(g > 0 for g in grades.values()))
        first = next((rank for rank, hit in enumerate(hits[:10], start=1) if hit), math.inf)
        assert found["MRR@10"][query] == pytest.approx(1 / first)


def test_a_run_of_other_queries_is_an_error():
    with pytest.raises(InvalidInputError, match="no query of the run 'mine'"):
        measure_run(tiny({"q1": {"a": 1}}), Run("mine", {"other": [("a", 1.0)]}))


def test_intervals_contain_the_mean_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    values = rng.beta(2, 1, size=(400, 60))  # 400 data sets of 60 queries, whose mean is 2/3
    held = [lower <= 2 / 3 <= upper for row in values for lower, upper in bootstrap_intervals(row[None], resamples=500)]
    assert 0.90 <= np.mean(held) <= 0.98


def test_intervals_do_not_depend_on_other_measures_or_on_blocks(monkeypatch):
    values = np.random.default_rng(1).random((3, 40))
    together = bootstrap_intervals(values, resamples=1000)
    assert_close(together[2], bootstrap_intervals(values[2:], resamples=1000)[0])
    monkeypatch.setattr("bge_integrations.evaluation.measures._BLOCK", 40 * 100)
    assert_close(bootstrap_intervals(values, resamples=1000), together)


def test_random_signs_agree_with_all_signs():
    differences = np.array([0.3, -0.1, 0.2, 0.25, 0.4, -0.05, 0.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    exact = np.mean(np.abs(differences[:6] @ signs) >= abs(differences.sum()) - 1e-9)
    assert randomisation_test(differences) == pytest.approx(exact, abs=0.015)


def test_p_values_under_chance_are_uniform():
    rng = np.random.default_rng(2)
    found = [randomisation_test(rng.standard_normal(30), resamples=400, seed=i) for i in range(300)]
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    assert 0.4 <= np.mean(found) <= 0.6


def test_comparisons(report):
    same = compare(report["hybrid"], report["hybrid"])
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)
    assert (same.wins, same.ties, same.losses) == (0, len(report["hybrid"].per_query["MAP"]), 0)
    ours = compare(report["sparse"], report["dense"], "MAP")
    theirs = compare(report["dense"], report["sparse"], "MAP")
    assert ours.difference == pytest.approx(report["sparse"].means["MAP"] - report["dense"].means["MAP"])
    assert (ours.wins, ours.losses, ours.p_value) == (theirs.losses, theirs.wins, theirs.p_value)
    assert ours.interval[0] <= ours.difference <= ours.interval[1]
    with pytest.raises(InvalidInputError, match=r"'dense'.*'mine'"):
        compare(report["dense"], measure_run(tiny({"q1": {"a": 1}}), Run("mine", {})))
    with pytest.raises(InvalidInputError, match=r"measure='P@1'.* nDCG@10"):
        compare(report["dense"], report["sparse"], "P@1")
    with pytest.raises(InvalidInputError, match="nDCG@10"):
        compare(report["dense"], report["sparse"], ["MAP"])


# Searching


@pytest.fixture(scope="module")
def matrices(demo, pocket):
    """All scores of the judged queries and the documents by ascending id."""
    options = {"sparse": True, "multi_vector": True, "on_truncate": "ignore"}
    queries = pocket.encode([demo.queries[key] for key in demo.judged], kind="query", **options)
    passages = pocket.encode([demo.documents[key] for key in sorted(demo.documents)], kind="passage", **options)
    return hybrid_scores(queries, passages, (1, 0.5, 2))


@pytest.mark.parametrize(("chunk", "kept"), [(512, 1000), (7, 10)])
def test_a_search_in_chunks_equals_the_whole_matrix(monkeypatch, demo, pocket, matrices, chunk, kept):
    monkeypatch.setattr("bge_integrations.evaluation.retrieval._CHUNK", chunk)
    monkeypatch.setattr("bge_integrations.evaluation.retrieval._CANDIDATES", kept)
    found = find_candidates(demo, pocket, weights=(1, 0.5, 2), depth=10, on_truncate="ignore")
    assert found.query_ids == demo.judged
    ids = sorted(demo.documents)
    for mode in MODES:
        run = found.run(mode, depth=10)
        for query, row in zip(demo.judged, getattr(matrices, mode), strict=True):
            expected = np.sort(row[row > 0] if mode == "sparse" else row)[::-1][:10]
            assert_close([score for _, score in run.rankings[query]], expected)
            assert_close([row[ids.index(document)] for document, _ in run.rankings[query]], expected)
    assert all(len(places) <= 4 * kept for places in found.places)
    assert set(found.run("hybrid", 10, (1, 1, 1)).rankings) == set(demo.judged)
    with pytest.raises(InvalidInputError, match="find_candidates"):
        found.run("dense", depth=1001)


def test_equal_scores_are_ordered_by_id(monkeypatch, pocket):
    monkeypatch.setattr("bge_integrations.evaluation.retrieval._CHUNK", 2)
    monkeypatch.setattr("bge_integrations.evaluation.retrieval._CANDIDATES", 3)
    documents = dict.fromkeys("dbeca", "The panda eats bamboo.")
    data = Dataset(queries={"q": "panda"}, documents=documents, qrels={"q": {"a": 1}})
    found = find_candidates(data, pocket, modes=["sparse"], depth=3)  # dense products may differ in the last digit
    assert [document for document, _ in found.run("sparse", 3).rankings["q"]] == list("abc")
    assert [document for document, _ in bm25(data).rankings["q"]] == list("abcde")


def test_a_document_with_the_querys_own_id_is_skipped(pocket):
    documents = {"1": "Pandas eat bamboo.", "2": "What pandas eat.", "3": "Rome lies on the Tiber."}
    data = Dataset(queries={"1": "Pandas eat bamboo.", "q": "Pandas eat bamboo."}, documents=documents,
                   qrels={"1": {"2": 1}, "q": {"1": 1}})  # fmt: skip
    found = find_candidates(data, pocket, modes=["dense"]).run("dense")
    assert {document for document, _ in found.rankings["1"]} == {"2", "3"}
    assert found.rankings["q"][0][0] == "1"
    assert [document for document, _ in bm25(data).rankings["1"]] == ["2"]


def test_an_embedder_without_the_other_heads_searches_by_dense(base):
    data = Dataset(queries={"q": "panda"}, documents={"a": "panda", "b": ""}, qrels={"q": {"a": 1}})
    assert list(evaluate(data, base)) == ["BM25", "dense"]
    with pytest.raises(InvalidInputError, match=r"bge-base-en-v1.5.*'hybrid'"):
        evaluate(data, base, modes=["dense", "hybrid"])


@pytest.mark.parametrize("modes", ["dense", [], ["dense", "dense"], ["lexical"]])
def test_unusable_modes(demo, pocket, modes):
    with pytest.raises(InvalidInputError, match="modes="):
        find_candidates(demo, pocket, modes=modes)


def test_other_unusable_arguments_of_a_search(demo, pocket, report):
    with pytest.raises(InvalidInputError, match=r"weights=\(0, 0, 0\)"):
        find_candidates(demo, pocket, weights=(0, 0, 0))
    with pytest.raises(InvalidInputError, match="depth=0"):
        find_candidates(demo, pocket, depth=0)
    with pytest.raises(InvalidInputError, match="add it to the modes"):
        find_candidates(demo, pocket, modes=["dense"], on_truncate="ignore").run("sparse")
    with pytest.raises(InvalidInputError, match="add it to the modes"):
        report.candidates.run("lexical")
    with pytest.raises(InvalidInputError, match=r"weights=\(\)"):
        report.candidates.run("hybrid", weights=())
    with pytest.raises(InvalidInputError, match="'hybrid' is also the name of a method"):
        evaluate(demo, pocket, baseline=report["hybrid"].run)
    with pytest.raises(
        InvalidInputError, match=r"'hybrid\+rerank' is also the name of a method"
    ):  # their files' names are one
        evaluate(demo, pocket, baseline=Run("hybrid+rerank", report["hybrid"].run.rankings))


@pytest.mark.parametrize("depth", [0, -1, 1.5, "a", True, None])
def test_a_depth_is_a_whole_number(demo, pocket, pocket_reranker, report, depth):
    data, candidates = constructed()
    for call in (
        lambda: bm25(demo, depth=depth),
        lambda: evaluate(demo, pocket, depth=depth),
        lambda: evaluate(demo, pocket, rerank_depth=depth),
        lambda: find_candidates(demo, pocket, depth=depth),
        lambda: report.candidates.run("dense", depth),
        lambda: rerank(demo, report["dense"].run, pocket_reranker, depth),
        lambda: tune_weights(data, candidates, depth=depth),
    ):
        with pytest.raises(InvalidInputError, match=f"depth={depth!r}") as caught:
            call()
        assert caught.value.argument in ("depth", "rerank_depth")


def test_evaluate_checks_before_it_searches(monkeypatch, demo, pocket):
    monkeypatch.delattr("bge_integrations.evaluation.report.bm25")
    for arguments in (
        {"weights": (0, 0, 0)},
        {"weights": (3e38, 3e38, 0)},
        {"on_truncate": "cut"},
        {"modes": 5},
        {"modes": [["dense"]]},
    ):
        with pytest.raises(InvalidInputError, match=next(iter(arguments))):
            evaluate(demo, pocket, **arguments)


def test_a_wrong_object_is_named(demo, pocket, pocket_reranker, report):
    run, candidates = report["dense"].run, report.candidates
    wrong = {
        ("data", "str"): [
            lambda: evaluate("demo", pocket),
            lambda: find_candidates("demo", pocket),
            lambda: bm25("demo"),
            lambda: measure_run("demo", run),
            lambda: rerank("demo", run, pocket_reranker),
            lambda: tune_weights("demo", candidates),
        ],
        ("embedder", "Reranker"): [
            lambda: evaluate(demo, pocket_reranker),
            lambda: find_candidates(demo, pocket_reranker),
        ],
        ("embedder", "str"): [lambda: evaluate(demo, "pocket")],
        ("reranker", "Embedder"): [
            lambda: evaluate(demo, pocket, reranker=pocket),
            lambda: rerank(demo, run, pocket),
        ],
        ("reranker", "str"): [lambda: evaluate(demo, pocket, reranker="pocket")],
        ("baseline", "str"): [
            lambda: evaluate(demo, pocket, baseline="bm25"),
            lambda: evaluate(demo, pocket, baseline=""),
        ],
        ("baseline", "NoneType"): [lambda: evaluate(demo, pocket, baseline=None)],
        ("baseline", "int"): [lambda: evaluate(demo, pocket, baseline=0)],
        ("run", "Result"): [
            lambda: measure_run(demo, report["dense"]),
            lambda: rerank(demo, report["dense"], pocket_reranker),
        ],
        ("source", "Report"): [lambda: tune_weights(demo, report)],
        ("first", "Run"): [lambda: compare(run, report["dense"])],
        ("second", "Run"): [lambda: compare(report["dense"], run)],
    }
    for (argument, given), calls in wrong.items():
        for call in calls:
            with pytest.raises(InvalidInputError, match=f"{argument} .*, got {given}") as caught:
                call()
            assert caught.value.argument == argument
            assert caught.value.advice


# Reranking


def test_reranking_orders_the_first_and_keeps_the_rest(demo, report, pocket_reranker):
    before, after = report["hybrid"].run, report["hybrid + rerank"].run
    for query, ranking in before.rankings.items():
        documents = [document for document, _ in ranking]
        logits = pocket_reranker.score([(demo.queries[query], demo.documents[d]) for d in documents[:5]])
        expected = [documents[i] for i in np.argsort(-logits, kind="stable")]
        assert [document for document, _ in after.rankings[query]] == expected + documents[5:]
        assert_close([score for _, score in after.rankings[query][:5]], np.sort(logits)[::-1], 1e-4)


def test_bm25_can_be_reranked_but_other_data_cannot(demo, pocket_reranker):
    run = rerank(demo, bm25(demo), pocket_reranker, 3)
    assert run.name == "BM25 + rerank"
    with pytest.raises(InvalidInputError, match=r"'f3167'.*'BM25'"):
        rerank(tiny({"q1": {"a": 1}}), bm25(demo), pocket_reranker)
    with pytest.raises(InvalidInputError, match=r"does not have both .* document 'z'"):  # below the depth too
        rerank(tiny({"q1": {"a": 1}}), Run("mine", {"q1": [("a", 2.0), ("z", 1.0)]}), pocket_reranker, 1)


def test_an_empty_run_is_reranked_to_an_empty_run(pocket_reranker):
    data = tiny({"q1": {"a": 1}, "q2": {"a": 1}})
    run = rerank(data, Run("mine", {"q1": [], "q2": [("b", 2.0), ("a", 1.0)]}), pocket_reranker)
    assert run.rankings["q1"] == []
    assert {document for document, _ in run.rankings["q2"]} == {"a", "b"}
    assert rerank(data, Run("mine", {"q1": []}), pocket_reranker).rankings == {"q1": []}


# BM25


def test_bm25_matches_lucenes_formula():
    texts = {"a": "cats chase mice; cats sleep", "b": "Dogs chase cats", "c": "birds", "d": ""}
    data = Dataset(queries={"q": "cats CHASE cats", "r": "fish"}, documents=texts, qrels={"q": {"a": 1}, "r": {"a": 1}})
    run = bm25(data, stemmer=False, stopwords=False, k1=1.5, b=0.6)
    words = {key: text.lower().replace(";", "").split() for key, text in texts.items()}
    mean = sum(map(len, words.values())) / len(words)
    expected = {}
    for key, found in words.items():
        for word in ["cats", "chase", "cats"]:
            holders = sum(word in other for other in words.values())
            frequency = Counter(found)[word]
            share = frequency / (frequency + 1.5 * (1 - 0.6 + 0.6 * len(found) / mean))
            weight = math.log(1 + (len(words) - holders + 0.5) / (holders + 0.5))
            expected[key] = expected.get(key, 0) + weight * share
    assert dict(run.rankings["q"]) == pytest.approx({key: expected[key] for key in "ab"}, rel=1e-5)
    assert "r" not in run.rankings


def test_bm25_handles_stems_stop_words_and_pairs_of_characters():
    def found(document, query, **options):
        data = Dataset(queries={"q": query}, documents={"d": document, "e": "…"}, qrels={"q": {"d": 1}})
        return bool(bm25(data, **options).rankings)

    assert found("the running cats", "cat")
    assert not found("the running cats", "cat", stemmer=False)
    assert not found("the running cats", "the")
    assert found("the running cats", "the", stopwords=False)
    assert found("die Katzen", "Katze", language="german")
    assert found("大熊猫吃竹子。", "熊猫在哪里", language="cjk")
    assert not found("大熊猫吃竹子。", "竹吃熊", language="cjk")
    assert found("pandas 吃 竹", "竹 PANDAS", language="cjk")


def test_bm25_refuses_settings_that_it_does_not_support():
    data = Dataset(queries={"q": "猫"}, documents={"d": "大熊猫吃竹子"}, qrels={"q": {"d": 1}})
    with pytest.raises(InvalidInputError, match="language='cjk'"):
        bm25(data)
    data = tiny({"q1": {"a": 1}}, ["a", "word"])
    with pytest.raises(InvalidInputError, match="language='klingon'"):
        bm25(data, language="klingon")
    with pytest.raises(InvalidInputError, match="language='finnish'"):
        bm25(data, language="finnish")
    with pytest.raises(InvalidInputError, match=r"no document .* contains a word"):
        bm25(tiny({"q1": {"a": 1}}, ["a"]))
    for k1 in (-1, math.inf, math.nan, "a"):
        with pytest.raises(InvalidInputError, match="k1="):
            bm25(data, k1=k1)
    for b in (-0.1, 1.5, math.nan, "a"):
        with pytest.raises(InvalidInputError, match=r"\bb="):
            bm25(data, b=b)
    for wrong in ({"stemmer": "english"}, {"stopwords": ["the"]}, {"stopwords": None}):
        with pytest.raises(InvalidInputError, match="must be True or False"):
            bm25(data, **wrong)
    assert bm25(data, k1=0, b=np.float32(0.5)).name == "BM25"


# Runs in files


def test_runs_are_read_back_unchanged(tmp_path, report):
    for name in report:
        run = report[name].run
        run.save(tmp_path / "runs" / "a.trec")
        assert Run.read(tmp_path / "runs" / "a.trec").rankings == run.rankings
    ties = Run("my method", {"q": [("é", 0.1 + 0.2), ("b", 0.3), ("a", 0.3), ("c", -1e-30)]})
    ties.save(tmp_path / "ties.trec")
    assert Run.read(tmp_path / "ties.trec").rankings == ties.rankings
    assert (tmp_path / "ties.trec").read_text("utf-8").splitlines()[1] == "q Q0 b 2 0.3 mymethod"
    assert [path.name for path in tmp_path.glob("*.trec")] == ["ties.trec"]


def test_runs_that_cannot_be_written_or_read(tmp_path):
    file = tmp_path / "a.trec"
    file.write_text("before")
    with pytest.raises(InvalidInputError, match="'a b' contains whitespace"):
        Run("m", {"q": [("a", 2.0), ("a b", 1.0)]}).save(file)
    assert file.read_text() == "before"
    for wrong in ("q Q0 d 1 0.5", "q Q0 d one 0.5 tag", "q Q0 d 1 high tag"):
        file.write_text(f"q Q0 c 1 0.5 tag\n{wrong}\n")
        with pytest.raises(InvalidInputError, match="line 2 must have the form"):
            Run.read(file)
    for name in ("", tmp_path, tmp_path / "none.trec"):
        with pytest.raises(InvalidInputError, match=r"is not a file; .* Run\.save"):
            Run.read(name)
    file.write_text("\n")
    with pytest.raises(InvalidInputError, match=r"a\.trec"):
        Run.read(file)
    file.write_text("q Q0 d 1 nan tag\n")
    with pytest.raises(InvalidInputError, match=r"a\.trec.*'q'"):
        Run.read(file)
    file.write_text("\ufeffq Q0 d 1 0.5 tag\n", "utf-8")  # the byte order mark that Windows editors write
    assert Run.read(file).rankings == {"q": [("d", 0.5)]}
    for name in ("", " ", 5):
        with pytest.raises(InvalidInputError, match="name="):
            Run(name, {})
    for scores in ([1.0, 2.0], [float("nan"), 0.0]):
        with pytest.raises(InvalidInputError, match="descending order"):
            Run("m", {"q": list(zip("ab", scores, strict=True))})
    with pytest.raises(InvalidInputError, match="twice"):
        Run("m", {"q": [("a", 2.0), ("a", 1.0)]})


@pytest.mark.parametrize(
    ("rankings", "message"),
    [
        (None, r"rankings must be a dictionary, \{query id: \[\(document id, score\), ...\]\}, got NoneType"),
        ([("q", "a", 1.0)], "rankings must be a dictionary, .*, got list"),
        ({1: [("a", 1.0)]}, "the query id 1; use a str"),
        ({"q": {"a": 1.0}}, r"ranking of query 'q' must be a list, \[\(document id, score\), ...\], got dict"),
        ({"q": "ab"}, "ranking of query 'q' must be a list, .*, got str"),
        ({"q": ["ab"]}, "ranking of query 'q' has 'ab'; use pairs"),
        ({"q": [("a", 1.0, 2)]}, r"has \('a', 1.0, 2\)"),
        ({"q": [(1, 1.0)]}, r"has \(1, 1.0\)"),
        ({"q": [("a", None)]}, r"has \('a', None\)"),
        ({"q": [("a", "1")]}, r"has \('a', '1'\)"),
    ],
)
def test_rankings_of_another_shape(rankings, message):
    with pytest.raises(InvalidInputError, match=message):
        Run("m", rankings)


def test_numpy_numbers_are_scores_too():
    assert Run("m", {"q": [("a", np.float32(2)), ["b", np.int64(1)]]}).to_trec().splitlines()[1] == "q Q0 b 2 1.0 m"


def test_paths_that_cannot_be_written(monkeypatch, tmp_path, report):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("before")
    run = report["dense"].run
    for path, message in (("", "name is empty"), (tmp_path, "is a folder"), (file / "a.trec", "file is a file")):
        with pytest.raises(InvalidInputError, match=message):
            run.save(path)
    for folder, message in (("", "name is empty"), (file, "file is a file"), (file / "below", "file is a file")):
        for save in (report.save, report.save_runs):
            with pytest.raises(InvalidInputError, match=message):
                save(folder)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can write everywhere
    with pytest.raises(InvalidInputError, match="can't be written to"):
        report.save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "before"


def test_links_are_followed_and_pipes_written_to(tmp_path):
    run = Run("m", {"q": [("a", 1.0)]})
    for target in ("old.trec", "new.trec"):
        (tmp_path / "old.trec").write_text("before")
        (tmp_path / "link").symlink_to(target)
        run.save(tmp_path / "link")
        assert (tmp_path / "link").readlink().name == target
        assert (tmp_path / target).read_text() == run.to_trec()
        (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    run.save(tmp_path / "pipe")
    assert os.read(reader, 1000).decode() == run.to_trec()
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InvalidInputError, match="link to itself"):
        run.save(tmp_path / "round")
    assert {path.name for path in tmp_path.iterdir()} == {"old.trec", "new.trec", "pipe", "round"}


def test_standard_output_may_be_named_as_a_file(tmp_path):
    code = (
        "from bge_integrations.evaluation import Run\n"
        "print('first'); Run('m', {'q': [('a', 1.0)]}).save('out'); print('last')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=out, check=True, timeout=60)
    assert (tmp_path / "out").read_text() == "first\nq Q0 a 1 1.0 m\nlast\n"


def test_a_report_with_one_run_that_cannot_be_written_writes_nothing(tmp_path, pocket):
    documents = {"a": "panda", "b c": "Rome"}  # BM25 only finds the first
    data = Dataset(queries={"q": "panda"}, documents=documents, qrels={"q": {"a": 1}})
    with pytest.raises(InvalidInputError, match="'b c' contains whitespace"):
        evaluate(data, pocket).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Weights


def constructed(queries=40, documents=30, answer=lambda i: i % 30):
    """Return data whose dense and sparse scores are noise and whose small multi-vector scores find the answer."""
    rng = np.random.default_rng(0)
    ids = [f"d{i:02}" for i in range(documents)]
    data = Dataset(
        queries={f"q{i}": "?" for i in range(queries)},
        documents={key: key for key in ids},
        qrels={f"q{i}": {ids[answer(i)]: 1} for i in range(queries)},
    )
    scores = []
    for i in range(queries):
        noise = rng.normal(0, 100, (2, documents)).astype(np.float32)
        right = np.zeros(documents, np.float32)
        right[answer(i)] = 1
        scores.append({"dense": noise[0], "sparse": noise[1], "multi_vector": right})
    places = [np.arange(documents)] * queries
    return data, Candidates(MODES, (1.0, 1.0, 1.0), 1000, data.judged, ids, places, scores)


def test_tuning_finds_the_right_weights():
    data, candidates = constructed()
    tuned = tune_weights(data, candidates, "nDCG@10")
    assert tuned.weights == (0, 0, 1)
    assert tuned.train.means["nDCG@10"] == tuned.held_out.means["nDCG@10"] == 1
    assert len(tuned.train.per_query["MAP"]) == len(tuned.held_out.per_query["MAP"]) == 20
    assert not tuned.train.per_query["MAP"].keys() & tuned.held_out.per_query["MAP"].keys()
    assert tuned.held_out_modes["multi_vector"].means == tuned.held_out.means
    assert tuned.comparison.difference == pytest.approx(1 - tuned.held_out_default.means["nDCG@10"])
    assert tuned.comparison.difference > 0.5
    assert (tuned.comparison.first, tuned.comparison.second) == ("tuned weights", "weights 1, 1, 1")
    assert tuned.comparison.p_value < 0.001
    other = tune_weights(data, candidates, "nDCG@10", seed=1, share=0.25)
    assert len(other.train.per_query["MAP"]) == 10
    assert other.train.per_query["MAP"].keys() != tuned.train.per_query["MAP"].keys()


def test_equal_weights_win_ties():
    data, candidates = constructed()
    right = [dict.fromkeys(scores, scores["multi_vector"]) for scores in candidates.scores]
    same = Candidates(MODES, (1.0, 1.0, 1.0), 1000, data.judged, candidates.document_ids, candidates.places, right)
    weights = tune_weights(data, same).weights
    assert sorted(weights) == [0.3, 0.3, 0.4]


def test_invalid_tuning_is_refused(demo, pocket, base):
    data, candidates = constructed(19)
    with pytest.raises(InvalidInputError, match=r"19 judged queries .* 10 .* and 9 "):
        tune_weights(data, candidates)
    data, candidates = constructed()
    for share in (0, 1, math.nan, "half"):
        with pytest.raises(InvalidInputError, match="above 0 and below 1"):
            tune_weights(data, candidates, share=share)
    for seed in (-1, 1.5, "a"):
        with pytest.raises(InvalidInputError, match="seed="):
            tune_weights(data, candidates, seed=seed)
    with pytest.raises(InvalidInputError, match="nDCG@10"):
        tune_weights(data, candidates, "P@1")
    with pytest.raises(InvalidInputError, match=r"bge-base-en-v1.5"):
        tune_weights(data, base)
    with pytest.raises(InvalidInputError, match="all four modes"):
        tune_weights(data, find_candidates(data, pocket, modes=["hybrid"]))
    with pytest.raises(InvalidInputError, match="find them with the same data"):
        tune_weights(data, find_candidates(demo, pocket, on_truncate="ignore"))
    with pytest.raises(InvalidInputError, match="1000 documents kept"):
        tune_weights(data, candidates, depth=1001)
    others = Dataset(queries=data.queries, documents=data.documents | {"new": "one more"}, qrels=data.qrels)
    with pytest.raises(InvalidInputError, match="find them with the same data"):
        tune_weights(others, candidates)


# The report


def test_the_report_has_all_methods_and_finds_answers(demo, report):
    assert list(report) == ["BM25", *MODES, "hybrid + rerank"]
    for name in report:
        result = report[name]
        assert result.per_query["nDCG@10"].keys() == set(demo.judged)
        for measure, (lower, upper) in result.intervals.items():
            assert 0 <= lower <= result.means[measure] <= upper <= 1
            assert result.means[measure] == pytest.approx(np.mean(list(result.per_query[measure].values())))
    assert report["hybrid"].means["nDCG@10"] > 0.8  # the questions were chosen because the pocket model answers them
    shown = str(report)
    assert "demo: 120 documents" in shown
    assert f"{report['hybrid'].means['nDCG@10']:.3f} [" in shown
    for name in report:
        assert name in shown
        assert f"| {name} |" in report.markdown()
    with pytest.raises(InvalidInputError, match="no method 'BM42'; use one of 'BM25', 'dense'"):
        report["BM42"]
    with pytest.raises(InvalidInputError, match=r"no method \['BM25'\]; use one of 'BM25', 'dense'"):
        report[["BM25"]]


def test_the_files_of_a_report(tmp_path, report, pocket, pocket_reranker):
    report.save(tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert stored == json.loads(report.to_json())
    assert stored["embedder"]["weights"] == pocket.vector_settings("query")["weights"]
    assert stored["reranker"]["weights"] == pocket_reranker.weights_digest != stored["embedder"]["weights"]
    assert {"torch", "transformers", "bge-integrations"} <= stored["versions"].keys()
    assert stored["methods"]["hybrid"]["per_query"] == report["hybrid"].per_query
    assert stored["methods"]["BM25"]["against_baseline"] is None
    against = compare(report["hybrid"], report["BM25"])
    assert stored["methods"]["hybrid"]["against_baseline"]["difference"] == against.difference
    runs = {path.stem for path in (tmp_path / "out").glob("*.trec")}
    assert runs == {"BM25", *MODES, "hybrid+rerank"}
    assert Run.read(tmp_path / "out" / "dense.trec").rankings == report["dense"].run.rankings


def test_any_run_may_be_the_baseline_or_none(tmp_path, demo, pocket, report):
    mine = Run("our/search [old]|1", report["BM25"].run.rankings)
    against = evaluate(demo, pocket, modes=["dense"], baseline=mine, on_truncate="ignore")
    assert list(against) == ["our/search [old]|1", "dense"]
    assert against.comparisons()["dense"].second == "our/search [old]|1"
    assert str(against).count("our/search [old]|1") == 2
    assert against.markdown().count(r"our/search [old]\|1 |") == 2
    against.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "our_search[old]|1.trec", "dense.trec"}
    alone = evaluate(demo, pocket, modes=["dense"], baseline=False, on_truncate="ignore")
    assert list(alone) == ["dense"]
    assert "less" not in str(alone)


# Data sets


def test_titles_come_before_texts():
    documents = {"a": {"title": "Panda", "text": "It eats bamboo."}, "b": {"text": " bare "}, "c": "as it is", "d": ""}
    data = Dataset(queries={"q": "?"}, documents=documents, qrels={"q": {"a": np.int64(1)}})
    assert data.documents == {"a": "Panda It eats bamboo.", "b": "bare", "c": "as it is", "d": ""}
    assert data.qrels == {"q": {"a": 1}}


def test_reading_a_folder(demo_folder, demo):
    assert len(demo.documents) == 120
    assert "unjudged" in demo.queries
    assert "unjudged" not in demo.judged
    assert demo.name == "demo"
    assert Dataset.read(demo_folder, "bare").qrels == demo.qrels
    with pytest.raises(InvalidInputError, match="no split 'train'; use 'bare', 'test'"):
        Dataset.read(demo_folder, "train")
    with pytest.raises(InvalidInputError, match="is not a folder"):
        Dataset.read(demo_folder / "none")
    with pytest.raises(InvalidInputError, match="name is empty"):
        Dataset.read("")


CORPUS = '{"_id": "a", "title": "", "text": "A\u2028B"}\n\n{"_id": "b", "text": ""}\n'
QUERIES = '{"_id": "q", "text": "?"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq\ta\t1\n"


def written(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    (folder / "qrels").mkdir()
    for name, text in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels/test.tsv", qrels)):
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_a_small_folder(tmp_path):
    assert Dataset.read(written(tmp_path)).documents == {"a": "A\u2028B", "b": ""}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": None}, r"corpus\.jsonl is missing"),
        ({"queries": None}, r"queries\.jsonl is missing"),
        ({"qrels": None}, r"test\.tsv is missing"),
        ({"corpus": CORPUS + "{oops}\n"}, r"corpus\.jsonl, line 4 is not JSON"),
        ({"corpus": CORPUS + '["c"]\n'}, r"line 4 must be an object"),
        ({"corpus": CORPUS + '{"_id": 7, "text": ""}\n'}, r"line 4 must be an object with \"_id\" and \"text\""),
        ({"corpus": CORPUS + '{"_id": "c"}\n'}, "line 4 must be an object"),
        ({"corpus": CORPUS + '{"_id": "a", "text": ""}\n'}, "line 4 has the same id 'a'"),
        ({"corpus": b"\xff\xfe"}, r"corpus\.jsonl is not UTF-8"),
        ({"queries": QUERIES + QUERIES}, r"queries\.jsonl, line 2 has the same id 'q'"),
        ({"queries": '{"_id": "q", "text": " "}\n'}, "query 'q' is blank"),
        ({"queries": '{"_id": "q", "text": "\\ud800"}\n'}, "lone surrogate"),
        ({"qrels": QRELS + "q\tb\t0.5\n"}, r"test\.tsv, line 3 has the grade '0.5'"),
        ({"qrels": QRELS + "q\tb\thigh\n"}, "line 3 has the grade 'high'"),
        ({"qrels": "q\ta\t0.5\n"}, "line 1 has the grade '0.5'"),
        ({"qrels": "q\ta\tx\nq\tb\t1\n"}, "line 1 has the grade 'x'"),
        ({"qrels": "q\tz\tx\nq\tb\t1\n"}, "line 1 has the grade 'x'"),
        ({"qrels": QRELS + "q b 1\n"}, "line 3 must be query id, document id and grade"),
        ({"qrels": QRELS + "q\ta\t2\n"}, "line 3 has another grade for document 'a' and query 'q'"),
        ({"qrels": QRELS + "z\ta\t1\n"}, "query 'z', which is not in queries"),
        ({"qrels": QRELS + "q\tz\t1\n"}, "document 'z' for query 'q', which is not in documents"),
        ({"qrels": "q\ta\t0\n"}, "no grade is above 0"),
        ({"qrels": ""}, "no grade is above 0"),
        ({"corpus": CORPUS + '{"_id": "\\ud800", "text": ""}\n'}, "lone surrogate"),
        ({"corpus": CORPUS + "[" * 100_000 + "\n"}, "line 4 has JSON that is nested too deeply"),
        (
            {"corpus": CORPUS + '{"_id": "c", "text": "", "n": ' + "9" * 5000 + "}\n"},
            "line 4 has a number with too many",
        ),
        ({"qrels": QRELS + "q\tb\t1000000000\n"}, "is 1000000000; use at most 1000"),
    ],
)
def test_errors_in_folders(tmp_path, files, message):
    with pytest.raises(InvalidInputError, match=message):
        Dataset.read(written(tmp_path, **files))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": {"q": None}}, "query 'q' must be a str"),
        ({"queries": {"": "?"}}, "a query has the id ''"),
        ({"documents": {1: "text"}}, "a document has the id 1"),
        ({"documents": {"a": {"title": "t", "text": 3}}}, "the text of document 'a' must be a str"),
        ({"documents": {"a": ["text"]}}, "document 'a' must be a str"),
        ({"documents": {"a": {"title": "t", "txt": "text"}}}, "document 'a' has no field 'text', only 'title', 'txt'"),
        ({"documents": ["text"]}, r"documents must be a dictionary, \{document id: text\}, got list"),
        ({"queries": None}, r"queries must be a dictionary, \{query id: text\}, got NoneType"),
        ({"qrels": [("q", "a", 1)]}, "qrels must be a dictionary, .*, got list"),
        ({"qrels": {"q": ["a"]}}, r"judgements of query 'q' must be a dictionary, \{document id: grade\}, got list"),
        ({"qrels": {"q": {"a": 1.5}}}, "is 1.5; use a whole number"),
        ({"qrels": {"q": {}}}, "no grade is above 0"),
    ],
)
def test_errors_in_dictionaries(arguments, message):
    right = {"queries": {"q": "?"}, "documents": {"a": "text"}, "qrels": {"q": {"a": 1}}}
    with pytest.raises(InvalidInputError, match=message):
        Dataset(**{**right, **arguments})


def test_only_takes_ids(demo):
    for wrong in (None, "q1"):
        with pytest.raises(InvalidInputError, match="query_ids"):
            demo.only(wrong)


# The command

#: A model that does not exist: if it is loaded before the mistake is found, the error is about the model.
NO_MODEL = ["--model", "./nothing"]


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bge_integrations.evaluation", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "160", "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_command_writes_tables_json_runs_and_markdown(tmp_path, demo_folder, demo, report):
    files = ["--json", "all.json", "--runs", "runs", "--markdown", "tables.md"]
    done = command(
        tmp_path, demo_folder, "--model", "pocket", "--reranker", "pocket", "--rerank-depth", "5", *files
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "demo: 120 documents" in done.stdout
    assert done.stderr == "" or done.stderr.endswith("were truncated\n")
    [stored] = json.loads((tmp_path / "all.json").read_text("utf-8"))
    for name in report:
        assert stored["methods"][name]["means"] == pytest.approx(report[name].means, abs=1e-6)
        assert f"| {name} |" in (tmp_path / "tables.md").read_text("utf-8")
    assert stored["tuned"] is None
    assert Run.read(tmp_path / "runs" / "demo" / "hybrid+rerank.trec").rankings.keys() == set(demo.judged)


def test_json_alone_on_standard_output(tmp_path, demo_folder):
    done = command(
        tmp_path, demo_folder, "--model=pocket", "--modes=dense,hybrid", "--weights=1,0,1", "--no-baseline", "--json=-"
    )
    assert done.returncode == 0, done.stderr
    [stored] = json.loads(done.stdout)
    assert list(stored["methods"]) == ["dense", "hybrid"]
    assert stored["weights"] == [1, 0, 1]
    assert stored["baseline"] is None


def test_tuning_from_the_command(tmp_path, pocket):
    names = ["panda", "heron", "tiger", "zebra", "otter", "eagle", "shark", "mouse", "horse", "snake"]
    animals = [f"{color} {name}" for color in ("red", "black") for name in names]
    folder = tmp_path / "animals"
    folder.mkdir()
    written(
        folder,
        "".join(json.dumps({"_id": str(i), "text": f"The {name} sleeps."}) + "\n" for i, name in enumerate(animals)),
        "".join(json.dumps({"_id": f"q{i}", "text": f"a {name}"}) + "\n" for i, name in enumerate(animals)),
        "".join(f"q{i}\t{i}\t1\n" for i in range(len(animals))),
    )
    done = command(tmp_path, folder, "--model", "pocket", "--tune", "--json", "all.json")
    assert done.returncode == 0, done.stderr
    assert "Weights tuned on half of the queries: " in done.stdout
    [stored] = json.loads((tmp_path / "all.json").read_text("utf-8"))
    expected = tune_weights(Dataset.read(folder), pocket)
    assert stored["tuned"]["weights"] == list(expected.weights)
    assert stored["tuned"]["held_out"] == pytest.approx(expected.held_out.means)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "--model", "pocket"], "none is not a folder"),
        (["{demo}", "--model", "pocket", "--split", "dev"], "no split 'dev'; use 'bare', 'test'"),
        (["{demo}", "--model", "./nothing"], "nothing"),
        (["{demo}", "{demo}", "--model", "pocket", "--runs", "runs"], "have the same name, so their --runs"),
        (["{demo}", "--model", M3, "--reranker", M3], "is not a reranker; pass a reranker, or leave --reranker out"),
        (["{demo}", "--model", RERANKER], "is a reranker; pass it as --reranker"),
        (["{demo}", "--model", "bge-reranker-base"], "is a reranker; pass it as --reranker"),
        (["{demo}", "--model", "pocket", "--reranker", "bge-m3"], "is not a reranker; pass a reranker, or leave"),
        (["{demo}", "--model", BASE, "--weights", "1,0.3,1"], "--weights needs sparse and multi-vector scores"),
        (["{demo}", "--model", BASE, "--modes", "hybrid"], "--modes hybrid needs sparse and multi-vector scores"),
        # before any model is looked up
        (["{demo}", "", *NO_MODEL], "FOLDER is empty"),
        (["{demo}", *NO_MODEL, "--weights", "1,2"], "--weights 1,2 must be three"),
        (["{demo}", *NO_MODEL, "--weights", "0,0,0"], "--weights 0,0,0 must be three"),
        (["{demo}", *NO_MODEL, "--weights", "1e308,1e308,1e308"], "--weights 1e308,1e308,1e308 must be three"),
        (["{demo}", *NO_MODEL, "--weights", "1,2,3", "--modes", "dense,sparse"], "--weights has no effect"),
        (["{demo}", *NO_MODEL, "--modes", "lexical"], "--modes lexical must be"),
        (["{demo}", *NO_MODEL, "--modes", ""], "--modes is empty"),
        (["{demo}", *NO_MODEL, "--modes", "dense,dense"], "--modes dense,dense must be"),
        (["{demo}", *NO_MODEL, "--tune", "--modes", "dense"], "leave --modes out"),
        (["{demo}", *NO_MODEL, "--tune"], "judged queries are split"),
        (["{demo}", *NO_MODEL, "--rerank-depth", "0"], "--rerank-depth=0 must be a whole number"),
        (["{demo}", *NO_MODEL, "--rerank-depth", "5"], "--rerank-depth has no effect"),
        (["{demo}", *NO_MODEL, "--language", "klingon"], "--language klingon is not supported; use one of "),
        (["{demo}", *NO_MODEL, "--language", "finnish"], "--no-baseline"),
        (["{demo}", *NO_MODEL, "--language", "german", "--no-baseline"], "leave one of the two out"),
        (["{demo}", *NO_MODEL, "--json", "{demo}"], "is a folder; pass a file"),
        (["{demo}", *NO_MODEL, "--json", "{demo}/corpus.jsonl/a"], "corpus.jsonl is a file; pass a folder"),
        (["{demo}", *NO_MODEL, "--markdown", ""], "--markdown is empty"),
        (["{demo}", *NO_MODEL, "--markdown", "a", "--json", "./a"], "have the same path; give each its own"),
        (["{demo}", "--model", ""], "--model is empty"),
        (["{demo}", *NO_MODEL, "--reranker", ""], "--reranker is empty"),
        (["{demo}", *NO_MODEL, "--runs", ""], "--runs is empty"),
        (["{demo}", *NO_MODEL, "--runs", "{demo}/corpus.jsonl"], "is a file; pass a folder"),
    ],
)
def test_a_mistake_is_one_line(capsys, demo_folder, arguments, message):
    assert main([argument.format(demo=demo_folder) for argument in arguments]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("bge: ")
    assert written.err.count("\n") == 1
    assert message in written.err


def test_ids_that_a_run_file_cannot_contain_are_found_first(capsys, tmp_path):
    written(tmp_path, corpus=CORPUS + '{"_id": "b c", "text": ""}\n')
    assert main([str(tmp_path), *NO_MODEL, "--runs", str(tmp_path / "runs")]) == 1
    assert "the id 'b c' contains whitespace" in capsys.readouterr().err
    assert main([str(tmp_path), *NO_MODEL]) == 1
    assert "there is no folder ./nothing" in capsys.readouterr().err


def test_documents_in_another_script_are_found_first(capsys, tmp_path):
    written(tmp_path, corpus='{"_id": "a", "text": "大熊猫吃竹子"}\n')
    assert main([str(tmp_path), *NO_MODEL]) == 1
    assert "--language cjk" in capsys.readouterr().err


def test_truncated_texts_are_reported_for_each_data_set(capsys, tmp_path):
    for name, words in (("short", 3), ("long", 600), ("longer", 900)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, corpus=json.dumps({"_id": "a", "text": "panda " * words}) + "\n")
    folders = [str(tmp_path / name) for name in ("short", "long", "longer")]
    assert main([*folders, "--model", "pocket", "--reranker", "pocket"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"bge: {name}: some texts were longer than the model's maximum and were truncated"
        for name in ("long", "longer")
    ]


def test_an_error_in_a_later_data_set_loses_no_earlier_result(tmp_path, capsys):
    for name, text in (("good", "giant pandas"), ("bad", "\u00e9")):
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": text}) + "\n")
        (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "pandas"}) + "\n")
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    out = tmp_path / "out.json"
    assert main([str(tmp_path / "good"), str(tmp_path / "bad"), "--model", "pocket", "--json", str(out)]) == 1
    assert "no document of 'bad' contains a word" in capsys.readouterr().err
    assert len(json.loads(out.read_text())) == 1


def test_the_exit_status_of_the_command(tmp_path):
    done = command(tmp_path, "none", "--model", "pocket")
    assert done.returncode == 1
    assert done.stderr.startswith("bge: none is not a folder")
    assert done.stderr.count("\n") == 1


def test_interrupted(monkeypatch, capsys, demo_folder):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bge_integrations.cli.evaluation._load_embedder", interrupt)
    assert main([str(demo_folder), "--model", "pocket"]) == 130
    assert capsys.readouterr().err == "bge: interrupted\n"


def test_a_closed_pipe_is_silent(tmp_path):
    folder = written(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        program = [sys.executable, "-m", "bge_integrations.evaluation"]
        arguments = [folder, "--model", "pocket", "--modes", "dense", "--no-baseline", "--json", "-"]
        done = subprocess.run([*program, *arguments], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_libraries_are_imported_when_needed(tmp_path):
    code = """
import sys
import bge_integrations
assert not any(name.startswith("bge_integrations.evaluation") for name in sys.modules)
import bge_integrations.evaluation
assert not {"torch", "ir_measures", "bm25s", "rich", "Stemmer"} & sys.modules.keys(), sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", ["ir_measures", "bm25s", "Stemmer"])
def test_a_missing_library_is_named_with_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    data = tiny({"q1": {"a": 1}}, ["a", "word"])
    with pytest.raises(ImportError, match=rf"needs {library}: pip install -e '\.\[eval\]' in a clone"):
        measure_run(data, bm25(data))


def test_documents_without_words_are_in_no_ranking(pocket, tmp_path):
    documents = {"empty": "", "marks": "?!", "panda": "Pandas eat bamboo.", "rome": "Rome lies on the Tiber."}
    data = Dataset(queries={"q": "heron"}, documents=documents, qrels={"q": {"panda": 1}})
    found = find_candidates(data, pocket)
    assert found.document_ids == ["panda", "rome"]
    for mode in ("dense", "hybrid", "multi_vector"):
        ranking = [document for document, _ in found.run(mode).rankings["q"]]
        with M3Index.open(tmp_path / mode, pocket) as index:
            with pytest.warns(EmptyTextWarning):
                index.add(documents.values(), documents.keys())
            assert [hit.id for hit in index.search("heron", mode=mode)] == ranking
    with pytest.raises(InvalidInputError):
        find_candidates(Dataset(queries={"q": "a"}, documents={"d": " "}, qrels={"q": {"d": 1}}), pocket)
