"""`bge mine`, `bge teach` and `bge mix`."""

import json
import os
import signal

import pytest
from conftest import BASE, CHECKPOINTS

from bge_integrations.cli import main
from bge_integrations.core.reranker import Reranker
from bge_integrations.index import M3Index
from bge_integrations.training import mine_negatives, read_rows, teacher_scores

ROWS = [
    {"query": "What do pandas eat?", "pos": ["Pandas eat bamboo."], "neg": ["Herons eat fish.", "Cats drink milk."]},
    {"query": "Where is Rome?", "pos": ["Rome lies on the Tiber."], "neg": ["Paris lies on the Seine."]},
]
TEXTS = [text for row in ROWS for text in (*row["pos"], *row["neg"])]


@pytest.fixture
def bge(capsys):
    """Return a function that runs the command in this process and returns its exit status, stdout and stderr."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_mine_writes_what_the_function_returns(bge, data, pocket, tmp_path):
    output = tmp_path / "mined.jsonl"
    arguments = ["mine", data, "--model", "pocket", "--output", output, "--range", "0-4", "--negatives", "2"]
    status, out, err = bge(*arguments, "--json")
    assert (status, err) == (0, "")
    mined = mine_negatives(data, pocket, rank_range=(0, 4), negatives=2)
    assert tuple(read_rows(output)) == mined.rows
    reported = json.loads(out)
    assert reported["dropped"] == mined.dropped
    assert (reported["rows"], reported["negatives"], reported["short"]) == (2, 4, [])
    assert bge(*arguments)[0] == 1  # exists
    status, out, err = bge(*arguments[:-1], "4", "--overwrite", "--fill")
    assert status == 0
    assert err.count("\n") == 1
    assert f"{data}, line 2" in err


def test_mine_takes_an_index_or_a_corpus(bge, data, tmp_path):
    with M3Index.open(tmp_path / "index", model="pocket") as index:
        index.add([*TEXTS, "Pandas sleep."])
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, "Pandas sleep."]))
    common = ["mine", data, "--range", "0-6", "--sampling", "top", "--mode", "hybrid", "--quiet"]
    assert bge(*common, "--index", tmp_path / "index", "--output", tmp_path / "a.jsonl")[::2] == (0, "")
    assert bge(*common, "--model", "pocket", "--corpus", corpus, "--output", tmp_path / "b.jsonl")[::2] == (0, "")
    a, b = (list(read_rows(tmp_path / name)) for name in ("a.jsonl", "b.jsonl"))
    assert a == b
    assert "Pandas sleep." in a[0].neg
    for wrong in (["--index", "x", "--model", "pocket"], [], ["--index", tmp_path / "none"]):
        assert bge(*common, *wrong, "--output", tmp_path / "c.jsonl")[0] == 1
    assert not (tmp_path / "c.jsonl").exists()


def test_teach_averages_rerankers(bge, data, tmp_path):
    output = tmp_path / "taught.jsonl"
    teachers = ["--reranker", "pocket", "--reranker", CHECKPOINTS / "bert-reranker", "--weights", "3,1"]
    status, out, err = bge("teach", data, *teachers, "--output", output, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"output": str(output), "rows": 2, "scores": 5, "rows_without_negatives": 0}
    rows = teacher_scores(data, ["pocket", CHECKPOINTS / "bert-reranker"], weights=[3, 1])
    assert tuple(read_rows(output)) == rows
    assert bge("teach", data, *teachers, "--output", output)[0] == 1  # exists
    assert bge("teach", data, "--reranker", "pocket", "--output", tmp_path / "none", "--weights", "a")[0] == 1
    assert bge("teach", tmp_path / "none", "--reranker", "pocket", "--output", tmp_path / "none")[0] == 1
    assert not (tmp_path / "none").exists()


def test_mix_writes_a_folder(bge, data, tmp_path):
    arguments = ["mix", BASE, BASE, "--output"]
    status, out, err = bge(*arguments, tmp_path / "a", "--weights", "0.25,0.75", "--layers", "0-1", "--json")
    assert (status, err) == (0, "")
    mixed = json.loads(out)
    assert mixed["weights"] == [0.25, 0.75]
    assert mixed["mixed"] > 0 < mixed["kept"]
    assert (tmp_path / "a" / "model.safetensors").exists()
    status, out, err = bge(*arguments, tmp_path / "b", "--examples", data, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["weights"] == [0.5, 0.5]
    assert found["losses"][0] == found["losses"][1] > 0
    for wrong in (
        ["--weights", "0.5,0.4"],
        ["--weights", "a"],
        ["--layers", "x"],
        ["--weights", "1,0", "--examples", data],
    ):
        status, out, err = bge(*arguments, tmp_path / "c", *wrong)
        assert (status, out) == (1, "")
        assert wrong[0] in err
    assert bge(*arguments, tmp_path / "a")[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "rows.jsonl"]


def test_ctrl_c_writes_nothing(bge, data, tmp_path, monkeypatch, ctrl_c):
    score = Reranker.score

    def interrupted(reranker, pairs, **settings):
        os.kill(os.getpid(), signal.SIGINT)
        return score(reranker, pairs, **settings)

    monkeypatch.setattr(Reranker, "score", interrupted)
    output = ["--output", tmp_path / "none.jsonl"]
    assert bge("teach", data, "--reranker", "pocket", *output)[0] == 130
    assert bge("mine", data, "--model", "pocket", "--range", "0-5", "--judge", "pocket", *output)[0] == 130
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
