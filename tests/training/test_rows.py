"""Training rows: what is read, what is refused and where, and what is written."""

import json
import pickle

import pytest

from bge_integrations.errors import InvalidInputError, TrainingDataError
from bge_integrations.training import TrainingRow, read_rows, read_training_data, write_rows

GOOD = {"query": "q", "pos": ["a"], "neg": ["b", "c"]}


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def mistakes_of(source):
    with pytest.raises(TrainingDataError) as error:
        read_rows(source)
    assert error.value.count == len(error.value.mistakes)
    return [(mistake.location.line, mistake.field) for mistake in error.value.mistakes]


def test_all_fields_survive_writing_and_reading(tmp_path):
    rows = [
        TrainingRow("où ?", ("a", "b"), ("c",), (1.5, 2.0), (-3.0,), "p", "qp", "pp", "only_1neg", "x"),
        TrainingRow("q", ("a",)),
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows


def test_files_and_folders_are_read_in_order_with_their_lines(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "b.json", GOOD)
    write(folder / "a.jsonl", GOOD, GOOD)
    (folder / "notes.txt").write_text("not read")
    single = tmp_path / "single.jsonl"
    single.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(GOOD).encode())
    rows = read_rows([single, str(folder)])
    assert [(location.file.name, location.line) for location in rows.locations] == [
        ("single.jsonl", 2),
        ("a.jsonl", 1),
        ("a.jsonl", 2),
        ("b.json", 1),
    ]
    assert rows.by_file == {single: [0], folder / "a.jsonl": [1, 2], folder / "b.json": [3]}
    assert rows.select([3, 0]).locations == (rows.locations[3], rows.locations[0])


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({**GOOD, "pos": "a"}, ["pos"]),
        ({**GOOD, "neg": "b"}, ["neg"]),
        ({**GOOD, "pos": []}, ["pos"]),
        ({**GOOD, "pos": [" "]}, ["pos"]),
        ({**GOOD, "pos": [["a"]]}, ["pos"]),
        ({**GOOD, "query": ""}, ["query"]),
        ({**GOOD, "query": ["q"]}, ["query"]),
        ({"query": "q", "neg": ["b"]}, ["pos"]),
        ({"pos": ["a"]}, ["query"]),
        ({**GOOD, "query": "\ud800"}, ["query"]),
        ({**GOOD, "type": "symetric"}, ["type"]),
        ({**GOOD, "type": []}, ["type"]),
        ({**GOOD, "prompt": 3}, ["prompt"]),
        ({**GOOD, "batch_size": 0, "train_group_size": "3"}, ["batch_size", "train_group_size"]),
        ({**GOOD, "pos_scores": [1]}, ["neg_scores"]),
        ({**GOOD, "pos_scores": [1], "neg_scores": [1]}, ["neg_scores"]),
        ({**GOOD, "pos_scores": [1], "neg_scores": 2}, ["neg_scores"]),
        ({**GOOD, "pos_scores": [float("nan")], "neg_scores": [1, float("inf")]}, ["pos_scores", "neg_scores"]),
        ({**GOOD, "pos_scores": [True], "neg_scores": ["1", 10**400]}, ["pos_scores", "neg_scores", "neg_scores"]),
        ({"query": "", "pos": "", "neg": [1, 2]}, ["query", "pos", "neg", "neg"]),
        ([1], [None]),
        ("text", [None]),
    ],
)
def test_each_mistake_is_found_where_it_is(tmp_path, row, fields):
    assert mistakes_of(write(tmp_path / "rows.jsonl", GOOD, row, GOOD)) == [(2, field) for field in fields]


def test_all_mistakes_of_all_files_are_reported_together(tmp_path):
    write(tmp_path / "a.jsonl", {**GOOD, "pos": []}, GOOD, {**GOOD, "query": " "})
    (tmp_path / "b.jsonl").write_bytes(b'{"query": \n' + '{"query": "é"}'.encode("latin-1"))
    with pytest.raises(TrainingDataError) as error:
        read_rows(tmp_path)
    found = [(mistake.location.file.name, mistake.location.line) for mistake in error.value.mistakes]
    assert found == [("a.jsonl", 1), ("a.jsonl", 3), ("b.jsonl", 1), ("b.jsonl", 2)]
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.mistakes, again.count, str(again)) == (error.value.mistakes, 4, str(error.value))


def test_the_kept_mistakes_are_limited_but_counted(tmp_path):
    with pytest.raises(TrainingDataError) as error:
        read_rows(write(tmp_path / "rows.jsonl", *[{**GOOD, "pos": "a"}] * 500))
    assert (error.value.count, len(error.value.mistakes)) == (500, 100)


@pytest.mark.parametrize("content", ["[\n{}\n]\n", '{"query": "q"}\n'.encode("utf-16")])
def test_a_file_that_is_no_jsonl_at_all_is_one_mistake(tmp_path, content):
    file = tmp_path / "rows.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert mistakes_of(file) == [(1, None)]


def test_rows_made_in_python_are_checked_too():
    rows = read_rows([TrainingRow("q", ["a"], neg=["b"]), TrainingRow("r", ("a",))])
    assert rows[0] == TrainingRow("q", ("a",), ("b",))
    assert read_rows(rows) is rows
    assert mistakes_of([TrainingRow("q", ("a",)), TrainingRow("q", "abc")]) == [(1, "pos")]


def test_unknown_fields_are_reported_and_nulls_count_as_missing(tmp_path):
    row = {**GOOD, "neg": None, "prompt": None, "pos_scores": None, "id": 7}
    with pytest.warns(UserWarning, match="'id'"):
        rows = read_rows(write(tmp_path / "rows.jsonl", row))
    assert list(rows) == [TrainingRow("q", ("a",))]


@pytest.mark.parametrize("source", ["", "missing.jsonl", [], [3], 3, [TrainingRow("q", ("a",)), "a.jsonl"]])
def test_what_is_no_data_is_refused(tmp_path, source):
    with pytest.raises(InvalidInputError) as error:
        read_rows(source)
    assert error.value.argument == "data"


def test_empty_files_and_folders_are_refused(tmp_path):
    (tmp_path / "rows.txt").write_text(json.dumps(GOOD))
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name in ("rows.txt", "folder", "empty.jsonl"):
        with pytest.raises(InvalidInputError) as error:
            read_rows(tmp_path / name)
        assert error.value.argument == "data"


def test_an_empty_file_among_others_is_a_mistake(tmp_path):
    write(tmp_path / "rows.jsonl", GOOD)
    for name, content in (("empty.jsonl", " \n"), ("empty.csv", ""), ("header.csv", "query,positive\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(TrainingDataError) as error:
            read_training_data([tmp_path / "rows.jsonl", tmp_path / name])
        assert [mistake.location.file.name for mistake in error.value.mistakes] == [name]
    with pytest.raises(TrainingDataError, match=r"empty\.jsonl"):
        read_rows([tmp_path / "rows.jsonl", tmp_path / "empty.jsonl"])


def test_writing_replaces_a_file_whole_or_not_at_all(tmp_path):
    file = write(tmp_path / "rows.jsonl", GOOD)

    def rows():
        yield TrainingRow("new", ("a",))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(rows(), file)
    assert [row.query for row in read_rows(file)] == ["q"]
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]
