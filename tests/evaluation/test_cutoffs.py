"""`compare_cutoffs`: measures each cutoff's own ranking, and refuses invalid arguments before the search."""

import numpy as np
import pytest
from conftest import BASE, CHECKPOINTS, RERANKER

from bge_integrations import load_reranker
from bge_integrations.core.reranker import Reranker
from bge_integrations.core.residency import models_in_memory
from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation import Dataset, compare, compare_cutoffs, cutoffs, find_candidates, measure_run, rerank

LAYERWISE = CHECKPOINTS / "bge-reranker-v2-minicpm-layerwise"
LIGHTWEIGHT = CHECKPOINTS / "bge-reranker-v2.5-gemma2-lightweight"
ANIMALS = ["panda", "heron", "trout", "otter", "raven"]


@pytest.fixture(scope="module")
def data():
    documents = {f"{animal}-{i}": f"The {animal} in story {i} eats." for animal in ANIMALS for i in range(3)}
    queries = {animal: f"What does the {animal} eat?" for animal in ANIMALS}
    return Dataset(
        queries=queries,
        documents=documents,
        qrels={animal: {f"{animal}-1": 1} for animal in ANIMALS},
        name="stories [1]",
    )


@pytest.fixture(scope="module")
def comparison(data, pocket):
    return compare_cutoffs(data, pocket, LAYERWISE, cutoff_layers=[2, 5, 3], depth=4)


def test_each_row_is_the_run_reranked_by_that_cutoff(data, pocket, comparison):
    first = find_candidates(data, pocket).run("hybrid")
    assert [row.cutoff for row in comparison.rows] == [None, 2, 5, 3]
    assert comparison.rows[0].result.run.rankings == first.rankings
    for row in comparison.rows[1:]:
        with load_reranker(LAYERWISE, cutoff_layers=row.cutoff) as loaded:
            expected = measure_run(data, rerank(data, first, loaded, 4))
        assert row.result.run.rankings.keys() == expected.run.rankings.keys()
        for query, ranking in expected.run.rankings.items():
            assert [document for document, _ in row.result.run.rankings[query]] == [document for document, _ in ranking]
        assert row.result.means == expected.means
    assert len({tuple(row.result.per_query["MRR@10"].values()) for row in comparison.rows}) > 1


def test_the_time_is_per_query_and_only_of_scoring(comparison):
    for row in comparison.rows[1:]:
        assert row.seconds_per_query * len(ANIMALS) == pytest.approx(row.result.run.seconds["rerank"])
        assert row.seconds_per_query > 0
    assert comparison.rows[0].seconds_per_query == 0


def test_each_cutoff_is_scored_without_the_layers_above_and_alone_in_memory(data, pocket, monkeypatch):
    scored, score = [], Reranker.score

    def watched(self, pairs, **options):
        held = [key.layers for key in models_in_memory() if key.folder == LAYERWISE.resolve()]
        scored.append((self.cutoff_layers, held, len(pairs)))
        return score(self, pairs, **options)

    monkeypatch.setattr(Reranker, "score", watched)
    compare_cutoffs(data, pocket, LAYERWISE, cutoff_layers=[5, 2], depth=4)
    one, all_of_them = 4, 4 * len(ANIMALS)
    assert scored == [((5,), [5], one), ((5,), [5], all_of_them), ((2,), [2], one), ((2,), [2], all_of_them)]


def test_settings_reach_the_reranker_and_the_mode_the_search(data, pocket):
    options = {"cutoff_layers": [5], "depth": 4}
    plain = compare_cutoffs(data, pocket, LIGHTWEIGHT, **options).rows[1].result.run
    other = compare_cutoffs(
        data, pocket, LIGHTWEIGHT, mode="dense", compress_ratio=4, compress_layers=[2], **options
    ).rows
    assert other[0].result.run.rankings == find_candidates(data, pocket, modes=["dense"]).run("dense").rankings
    scores = [[score for _, score in run.rankings["panda"][:4]] for run in (plain, other[1].result.run)]
    assert not np.allclose(*scores)


def test_an_embedder_with_dense_vectors_alone_searches_by_them(data, base):
    found = compare_cutoffs(data, base, LAYERWISE, cutoff_layers=[2], depth=2)
    assert found.rows[0].result.run.name == "dense"


def test_tables_and_the_comparison_of_two_cutoffs(comparison):
    shown = str(comparison)
    assert "stories [1]: 15 documents, 5 queries" in " ".join(shown.split())
    assert comparison.table().row_count == 4
    header, _, none, *rows = comparison.markdown().splitlines()[2:]
    assert header == "| layers | nDCG@10 [95 %] | Recall@100 | MRR@10 | MAP | s/query |"
    assert none.startswith("| none |")
    assert none.endswith("|  |")
    assert [row.split("|")[1].strip() for row in rows] == ["2", "5", "3"]
    for row, line in zip(comparison.rows[1:], rows, strict=True):
        assert f"| {row.result.means['nDCG@10']:.3f} [" in line
        assert line.endswith(f"| {row.seconds_per_query:.3g} |")
        assert f"│ {row.seconds_per_query:.3g} │" in " ".join(shown.split())
    against = compare(comparison.rows[1].result, comparison.rows[2].result)
    assert (against.first, against.second) == ("hybrid + rerank (2 layers)", "hybrid + rerank (5 layers)")


@pytest.mark.parametrize(
    ("reranker", "arguments", "message"),
    [
        (LAYERWISE, {"cutoff_layers": []}, r"cutoff_layers=\[\] must be a list of layers"),
        (LAYERWISE, {"cutoff_layers": 8}, "cutoff_layers=8 must be a list of layers"),
        (LAYERWISE, {"cutoff_layers": [2, 7]}, "has scores after 2, 3, 4, 5, 6 layers"),
        (LAYERWISE, {"cutoff_layers": [2, 2]}, r"cutoff_layers=\[2, 2\]"),
        (LAYERWISE, {"cutoff_layers": [2], "depth": 0}, "depth=0 must be"),
        (LAYERWISE, {"cutoff_layers": [2], "mode": "fast"}, "modes="),
        (LAYERWISE, {"cutoff_layers": [2], "compress_ratio": 2}, "compress_ratio="),
        (RERANKER, {"cutoff_layers": [2]}, "after its last layer only"),
        (BASE, {"cutoff_layers": [2]}, "is an embedder"),
    ],
)
def test_invalid_arguments_are_refused_before_the_search(data, pocket, monkeypatch, reranker, arguments, message):
    def never(*_, **__):
        raise AssertionError("searched")

    monkeypatch.setattr(cutoffs, "find_candidates", never)
    with pytest.raises(InvalidInputError, match=message):
        compare_cutoffs(data, pocket, reranker, **arguments)


def test_a_search_that_finds_nothing_is_an_error(pocket):
    data = Dataset(queries={"a": "zebra"}, documents={"b": "bamboo"}, qrels={"a": {"b": 1}})
    with pytest.raises(InvalidInputError, match="found nothing to rerank in 'data set'"):
        compare_cutoffs(data, pocket, LAYERWISE, cutoff_layers=[2], mode="sparse")
