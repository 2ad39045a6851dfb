"""Statistics of training data: counts, lengths, and problems with their places."""

import json
import shutil

import pytest
from conftest import BASE

from bge_integrations import load_embedder
from bge_integrations.errors import CheckpointError
from bge_integrations.evaluation import Dataset
from bge_integrations.training import TokenCounter, TrainingRow, read_rows, statistics_of

ROWS = [
    TrainingRow("What do pandas eat?", ("Bamboo.", "bamboo"), ("Rice.", "Fish.")),
    TrainingRow("what do  pandas eat", ("Leaves.",), ("BAMBOO!",)),
    TrainingRow("Where is Rome?", ("On the Tiber.",)),
    TrainingRow("Where is Paris?", ("On the Seine.",), ("On the Tiber.",), (2.0,), (1.0,)),
]


def test_counts_and_problems():
    found = statistics_of(read_rows(ROWS))
    assert (found.rows, found.queries, found.passages) == (4, 3, 6)
    assert (found.positives, found.negatives, found.with_negatives, found.with_scores) == (1.25, 1.0, 3, 1)
    assert found.query_tokens is None
    assert (found.repeated_queries.count, found.repeated_queries.examples) == (1, ("row 1",))
    assert found.repeated_passages.examples == ("row 0",)
    assert found.positives_as_negatives.examples == ("row 1",)
    assert found.leaked_queries.count == 0
    assert json.loads(json.dumps(found.to_dict()))["rows"] == 4


def test_leaks_into_the_evaluation():
    evaluation = Dataset(
        queries={"a": "WHERE IS ROME", "b": "Where is Paris?", "unjudged": "What do pandas eat?"},
        documents={"d": "on the tiber", "e": "Elsewhere."},
        qrels={"a": {"d": 1}, "b": {"e": 1}},
    )
    found = statistics_of(read_rows(ROWS), evaluation=evaluation)
    assert found.leaked_queries.examples == ("row 2", "row 3")
    assert found.leaked_exactly.examples == ("row 3",)
    assert found.leaked_passages.examples == ("row 2",)
    assert len(found.table()) > len(statistics_of(read_rows(ROWS)).table())
    assert "row 3" in str(found)


def test_lengths_in_tokens_of_different_texts(pocket):
    counter = TokenCounter("pocket")
    rows = read_rows(ROWS)
    found = statistics_of(rows, counter, query_max_length=6, passage_max_length=512)
    expected = pocket.count_tokens([row.query for row in ROWS])
    assert counter.count_tokens([row.query for row in ROWS]) == expected
    assert found.query_tokens.longest == max(expected)
    assert found.query_tokens.mean == pytest.approx(sum(expected) / 4)
    assert found.query_tokens.truncated == sum(length > 6 for length in expected) / 4
    assert found.passage_tokens.truncated == 0


def test_tokens_are_counted_as_the_model_reads_them(tmp_path):
    texts = ["What do pandas eat?", "", "Rome lies on the Tiber. " * 400]
    with load_embedder(BASE) as embedder:
        assert TokenCounter(BASE).count_tokens(texts) == embedder.count_tokens(texts, kind="passage")
    shutil.copy(f"{BASE}/config.json", tmp_path)
    with pytest.raises(CheckpointError):
        TokenCounter(tmp_path)
