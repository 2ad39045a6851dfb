"""`bge train` from files to a model, and its errors."""

import json

import pytest
from conftest import BASE

PASSAGES = [
    f"Passage number {i} is about the town called {name}ville." for i, name in enumerate("abcdefghijklmnopqrst")
]
QUICK = ("--model", "pocket", "--device", "cpu", "--batch-size", "4", "--set", "max_steps=1", "--held-out", "0.5")


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"anchor": f"Where is {text.split()[-1]}", "positive": text} for text in PASSAGES]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_an_embedder_is_trained_and_measured(bge, pairs, tmp_path):
    command = ("train", "embedder", pairs, *QUICK, "--set", "unified=false", "--output", tmp_path / "model")
    status, out, err = bge(*command)
    assert (status, "nDCG@10" in out) == (0, True), err
    assert {"config.json", "README.md", "fine_tuning.json"} <= {file.name for file in (tmp_path / "model").iterdir()}
    for data in (pairs, tmp_path / "missing.jsonl"):  # found before the data is read
        status, _, err = bge("train", "embedder", data, *QUICK, "--output", tmp_path / "model")
        assert (status, err.startswith("bge: --output: ")) == (1, True)


def test_a_dry_run_writes_nothing(bge, pairs, tmp_path):
    status, out, _ = bge("train", "embedder", pairs, *QUICK, "--output", tmp_path / "model", "--dry-run", "--json")
    shown = json.loads(out)
    assert status == 0
    assert shown["statistics"]["rows"] == 10
    assert shown["estimate"]["trained"] == shown["estimate"]["parameters"] > 0
    assert not (tmp_path / "model").exists()
    status, out, err = bge("train", "embedder", pairs, *QUICK, "--output", tmp_path / "model", "--dry-run", "--lora")
    assert (status, "10 queries, 20 passages" in out) == (0, True), err


def test_a_reranker_is_trained_on_rows_with_negatives(bge, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"query": f"town {i}", "pos": [text], "neg": [PASSAGES[i - 1]]} for i, text in enumerate(PASSAGES)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = bge(
        "train", "reranker", file, *QUICK, "--group-size", "2", "--output", tmp_path / "model", "--json"
    )
    assert status == 0, err
    result = json.loads(out)
    assert (result["updates"], set(result["gain"]["methods"])) == (1, {"BM25", "before", "after"})


def test_documents_with_generated_and_clicked_questions(bge, tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for i, text in enumerate(PASSAGES):
        (folder / f"{i}.md").write_text(f"# Town {i}\n\n## Where {i} is\n\n{text}\n")
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("question,file\n" + "".join(f"asked about {i},{i}.md\n" for i in range(20)))
    output = ("--output", tmp_path / "model", "--dry-run", "--json")
    for data in ((folder, "--generate-questions"), (clicks, "--documents", folder)):
        status, out, err = bge("train", "embedder", *data, *QUICK, *output)
        assert status == 0, err
        assert json.loads(out)["statistics"]["rows"] == 10
    status, _, err = bge("train", "embedder", folder, "--documents", folder, "--generate-questions", *QUICK, *output)
    assert (status, err.count("\n")) == (1, 1)


def test_each_mistake_in_the_data_is_a_line(bge, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"query": "q", "pos": "text"}\n{"query": "", "pos": ["a"]}\n')
    status, out, err = bge("train", "embedder", file, *QUICK, "--output", tmp_path / "model")
    lines = err.splitlines()
    assert (status, out, len(lines)) == (1, "", 2)
    assert [f"line {i}" in line for i, line in enumerate(lines, start=1)] == [True, True]


def test_the_model_and_the_rows_are_checked_before_anything_is_counted(bge, pairs, tmp_path):
    output = ("--output", tmp_path / "model", "--held-out", "0.5")
    status, out, err = bge("train", "embedder", tmp_path / "missing.jsonl", "--model", "no-such-model", *output)
    assert (status, out, "no-such-model" in err) == (1, "", True)
    status, out, err = bge("train", "reranker", pairs, "--model", BASE, *output)
    assert (status, out, "bge-base-en-v1.5" in err) == (1, "", True)
    status, out, err = bge("train", "reranker", pairs, "--model", "pocket", *output)
    assert (status, out, "bge mine" in err) == (1, "", True)


def test_advice_names_options(bge, pairs, tmp_path):
    status, _, err = bge(
        "train", "embedder", pairs, *QUICK, "--output", tmp_path / "model", "--set", "warmup=0", "--lora"
    )
    assert status == 0, err
    status, _, err = bge(
        "train", "embedder", pairs, "--model", tmp_path / "model", "--no-lora", "--output", tmp_path / "b"
    )
    assert (status, "--no-lora" in err, "lora=" in err) == (1, True, False)
    too_large = ("--model", "pocket", "--held-out", "0", "--batch-size", "100", "--output", tmp_path / "c")
    status, _, err = bge("train", "embedder", pairs, *too_large)
    assert (status, "--set drop_last=False" in err) == (1, True)


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        (("--set", "temperature"), 1, "--set"),
        (("--set", "temperature=-1"), 1, "temperature"),
        (("--set", "temprature=1"), 1, "temprature"),
        (("--set", "batch-size=2"), 1, "batch_size"),
        (("--set", "max_steps=2"), 1, "max_steps"),
        (("--set", "drop_last=maybe"), 1, "--set drop_last"),
        (("--set", "show_progress=1"), 1, "show_progress"),
        (("--set", "merge_lora=true", "--no-lora"), 1, "--no-lora"),
        (("--set", "shuffle_ratio=2"), 1, "--set shuffle_ratio"),
        (("--distillation", "kl_div"), 1, "--distillation"),
        (("--epochs", "0"), 1, "--epochs"),
        (("--held-out", "3"), 1, "--held-out"),
        (("--evaluation", "missing"), 1, "missing"),
        (("--epochs", "many"), 2, "epochs"),
    ],
)
def test_mistakes_in_options(bge, pairs, tmp_path, options, status, named):
    answer, _, err = bge("train", "embedder", pairs, *QUICK, *options, "--output", tmp_path / "model")
    assert (answer, named in err) == (status, True), err
    assert not (tmp_path / "model").exists()
