"""Task instructions by name: the tables, and the models that take them."""

import json

import pytest
from conftest import BASE, CHECKPOINTS, assert_close

from bge_integrations import load_embedder, task_instructions
from bge_integrations.catalog import CHECKPOINTS as ROWS
from bge_integrations.errors import ClosedError, InvalidInputError

GEMMA = CHECKPOINTS / "bge-multilingual-gemma2"
NFCORPUS = "Given a question, retrieve relevant documents that best answer the question."


def test_a_name_has_one_instruction_in_any_case():
    for rows in task_instructions.benchmarks().values():
        for task, instruction in rows.items():
            assert task_instructions.find_task(task) == task_instructions.find_task(task.upper()) == instruction
            assert instruction == instruction.strip()
    assert task_instructions.find_task("nonsense") is None


def test_the_file_lists_no_name_twice():
    stored = json.loads(task_instructions._FILE.read_text("utf-8"))
    for rows in stored.values():
        names = [task for tasks in rows.values() for task in tasks]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        ("NFCorpus", NFCORPUS),
        ("nfcorpus", NFCORPUS),
        ("trec-covid", "Given a query on COVID-19, retrieve documents that answer the query."),
        ("T2Reranking", "Given a Chinese search query, retrieve web passages that answer the question."),
        ("biology", "Given a Biology post, retrieve relevant passages that help answer the post."),
        ("biology_long", "Given a Biology post, retrieve relevant documents that help answer the post."),
        ("cosqa", "Given a web search query, retrieve relevant code that can help answer the query."),
    ],
)
def test_a_model_is_told_a_task_by_its_name(task, instruction):
    with load_embedder(GEMMA, task=task) as embedder:
        assert embedder.query_instruction == f"<instruct>{instruction}\n<query>"
        assert embedder.passage_instruction == ""


@pytest.mark.parametrize(
    ("task", "near"), [("NFCorpsu", "NFCorpus"), ("websearch", "web_search"), ("scifcat", "SciFact")]
)
def test_an_unknown_task_names_similar_ones(task, near):
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(GEMMA, task=task)
    assert caught.value.argument == "task"
    assert repr(near) in caught.value.advice


def test_a_model_with_a_fixed_instruction_takes_no_task():
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(BASE, task="NFCorpus")
    assert caught.value.argument == "task"
    with load_embedder(BASE) as embedder, pytest.raises(InvalidInputError):
        embedder.for_task("NFCorpus")


def test_every_instruct_model_has_an_instruction_for_queries_only():
    rows = [row for row in ROWS if row.instruction_format]
    assert rows
    for row in rows:
        before, between, after = row.instruction_format.split("{}")
        assert row.instructions.query.startswith(before)
        assert row.instructions.query.endswith(between)
        assert (after, row.instructions.passage) == ("", "")


def test_one_model_serves_several_tasks(texts):
    with (
        load_embedder(GEMMA, max_length=40, truncate_dim=16) as embedder,
        load_embedder(GEMMA, task="SciFact", max_length=40, truncate_dim=16) as loaded,
    ):
        other = embedder.for_task("SciFact")
        assert (other.max_length, other.dimension) == (40, 16)
        for kind in ("query", "passage"):
            expected = loaded.encode_dense(texts[:4], kind=kind, on_truncate="ignore")
            assert_close(other.encode_dense(texts[:4], kind=kind, on_truncate="ignore"), expected)
        assert other.vector_settings("query") == loaded.vector_settings("query") != embedder.vector_settings("query")
        with pytest.raises(InvalidInputError):
            other.for_task("nonsense")
        other.close()
        with pytest.raises(ClosedError):
            embedder.encode(texts[:1])
        with pytest.raises(ClosedError):
            embedder.for_task("SciFact")


def test_examples_belong_to_their_task():
    examples = [{"query": "a", "response": "b"}]
    with load_embedder(CHECKPOINTS / "bge-en-icl", examples=examples) as embedder, pytest.raises(InvalidInputError):
        embedder.for_task("SciFact")


def test_llm_embedders_tasks_are_its_own(tmp_path):
    folder = tmp_path / "llm-embedder"
    folder.symlink_to(BASE)
    with load_embedder(folder, task="qa") as embedder:
        chat = embedder.for_task("chat")
        assert chat.passage_instruction == "Embed this historical dialogue for retrieval: "
        with pytest.raises(InvalidInputError):
            embedder.for_task("NFCorpus")
