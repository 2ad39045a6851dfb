"""Training data in sentence-transformers' and BEIR's layouts becomes the same rows."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bge_integrations.errors import InvalidInputError, TrainingDataError
from bge_integrations.training import TrainingRow, read_training_data

PAIRS = [{"anchor": "q", "positive": "a"}, {"anchor": "r", "positive": "b"}, {"anchor": "q", "positive": "c"}]


def write(file, rows):
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        mark = "\t" if file.suffix == ".tsv" else ","
        lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
        file.write_text("".join(mark.join(f'"{cell}"' for cell in line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_pairs_in_any_file_are_merged_by_query(tmp_path, suffix):
    rows = read_training_data(write(tmp_path / f"pairs{suffix}", PAIRS))
    assert list(rows) == [TrainingRow("q", ("a", "c")), TrainingRow("r", ("b",))]
    assert rows.files == [tmp_path / f"pairs{suffix}"]


def test_pairs_in_a_dataset():
    rows = read_training_data(datasets.Dataset.from_list(PAIRS))
    assert list(rows) == [TrainingRow("q", ("a", "c")), TrainingRow("r", ("b",))]
    with pytest.raises(InvalidInputError):
        read_training_data(datasets.DatasetDict(train=datasets.Dataset.from_list(PAIRS)))


def test_several_negatives_and_their_scores(tmp_path):
    tuples = [
        {"question": "q", "answer": "a", "negative_1": "b", "negative_2": None, "scores": [3.0, 1.0]},
        {"question": "q", "answer": "a", "negative_1": "c", "negative_2": "d", "scores": [3, 2, 0]},
    ]
    expected = TrainingRow("q", ("a",), ("b", "c", "d"), (3.0,), (1.0, 2, 0))
    assert list(read_training_data(write(tmp_path / "a.jsonl", tuples))) == [expected]
    for row in tuples:
        del row["scores"]
    assert list(read_training_data(write(tmp_path / "a.parquet", tuples))) == [
        TrainingRow("q", ("a",), ("b", "c", "d"))
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_labels_say_which_texts_are_positives(tmp_path, suffix):
    pairs = [
        {"sentence1": "q", "sentence2": "a", "label": 1},
        {"sentence1": "q", "sentence2": "b", "label": 0},
        {"sentence1": "without", "sentence2": "b", "label": 0},
    ]
    with pytest.warns(UserWarning, match="1 queries"):
        rows = read_training_data(write(tmp_path / f"pairs{suffix}", pairs))
    assert list(rows) == [TrainingRow("q", ("a",), ("b",))]


def test_lists_of_texts_with_labels(tmp_path):
    rows = [{"query": "q", "document": ["a", "b", "c"], "labels": [0, 1, 0]}]
    assert list(read_training_data(write(tmp_path / "a.jsonl", rows))) == [TrainingRow("q", ("b",), ("a", "c"))]


def test_scores_need_a_threshold_and_become_a_teacher(tmp_path):
    pairs = [{"query": "q", "passage": text, "score": score} for text, score in (("a", 0.9), ("b", 0.2), ("c", 0.5))]
    file = write(tmp_path / "a.csv", pairs)
    with pytest.raises(TrainingDataError) as error:
        read_training_data(file)
    assert [(mistake.location.line, mistake.field) for mistake in error.value.mistakes] == [
        (2, "label"),
        (3, "label"),
        (4, "label"),
    ]
    assert list(read_training_data(file, positive_from=0.5)) == [
        TrainingRow("q", ("a", "c"), ("b",), (0.9, 0.5), (0.2,))
    ]


def test_mistakes_have_their_lines(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('anchor,positive,negative\nq,a,b\n"two\nlines",,b\nr,a\ns,a,\n')
    with pytest.raises(TrainingDataError) as error:
        read_training_data(file)
    assert [(mistake.location.line, mistake.field) for mistake in error.value.mistakes] == [(4, "pos"), (5, None)]


@pytest.mark.parametrize(
    "row",
    [
        {"anchor": "q", "positive": 3},
        {"anchor": "q", "positive": "a", "label": "high"},
        {"anchor": "q", "positive": "a", "negative": "b", "score": 0.4},
        {"anchor": None, "positive": "a"},
    ],
)
def test_a_row_that_cannot_be_used_is_a_mistake(tmp_path, row):
    with pytest.raises(TrainingDataError) as error:
        read_training_data(write(tmp_path / "a.jsonl", [{"anchor": "q", "positive": "a"}, row]))
    assert [mistake.location.line for mistake in error.value.mistakes] == [2]


def test_unknown_columns_and_broken_files_are_refused(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "latin.csv").write_bytes("anchor,positive\né,a\n".encode("latin-1"))
    write(tmp_path / "unknown.csv", [{"left": "q", "right": "a"}])
    for name in ("broken.parquet", "latin.csv", "unknown.csv"):
        with pytest.raises(InvalidInputError):
            read_training_data(tmp_path / name)


def test_a_folder_in_beirs_layout(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"_id": "d1", "title": "T", "text": "a"}, {"_id": "d2", "text": "b"}])
    write(tmp_path / "queries.jsonl", [{"_id": key, "text": key} for key in ("unjudged", "q1", "q2")])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("q1\td1\t2\nq1\td2\t0\nq2\td2\t0\n")
    with pytest.warns(UserWarning, match="1 queries"):
        rows = read_training_data([tmp_path])
    assert list(rows) == [TrainingRow("q1", ("T a",), ("b",))]
    assert (rows.locations[0].file, rows.locations[0].line) == (tmp_path / "queries.jsonl", 2)
    with pytest.raises(InvalidInputError):
        read_training_data(tmp_path, split="test")


def test_flag_embeddings_rows_and_others_together(tmp_path):
    own = write(tmp_path / "own.jsonl", [{"query": "q", "pos": ["a"], "neg": []}] * 2)
    write(tmp_path / "pairs.csv", PAIRS)
    rows = read_training_data([own, tmp_path / "pairs.csv"])
    assert [row.query for row in rows] == ["q", "q", "q", "r"]
    assert list(read_training_data(list(rows))) == list(rows)
    with pytest.raises(TrainingDataError):
        read_training_data(write(tmp_path / "bad.jsonl", [{"query": "q", "neg": ["a"]}]))
