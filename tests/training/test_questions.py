"""Rows made from documents: generated questions, and questions that users clicked."""

import json

import pytest

from bge_integrations import load_embedder
from bge_integrations.documents import Passage, read_passages
from bge_integrations.errors import InvalidInputError, TrainingDataError
from bge_integrations.training import TokenCounter, TrainingRow, clicked_questions, generated_questions

GUIDE = """# Bears

## Diet

The giant panda eats bamboo. It grows in the mountains.

## Size

A polar bear is the largest bear. It weighs half a ton.
"""
NOTE = "The Tiber is the river of Rome. It flows into the sea at Ostia. The port was there."


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "guide.md").write_text(GUIDE)
    (folder / "note.txt").write_text(NOTE)
    return list(read_passages(folder, TokenCounter("pocket"), passage_tokens=25, min_tokens=5, overlap_tokens=0))


def test_passages_are_the_same_as_with_the_embedder(passages, tmp_path):
    (tmp_path / "guide.md").write_text(GUIDE)
    with load_embedder("pocket") as embedder:
        again = list(read_passages(tmp_path, embedder, passage_tokens=25, min_tokens=5, overlap_tokens=0))
    assert again == [passage for passage in passages if passage.source == "guide.md"]


def test_headings_and_first_sentences_become_questions(passages):
    rows = generated_questions(passages)
    assert list(rows) == [
        TrainingRow("Bears Diet", ("The giant panda eats bamboo. It grows in the mountains.",)),
        TrainingRow("Bears Size", ("A polar bear is the largest bear. It weighs half a ton.",)),
        TrainingRow("The Tiber is the river of Rome.", ("It flows into the sea at Ostia. The port was there.",)),
    ]
    assert [location.file.name for location in rows.locations] == ["guide.md", "guide.md", "note.txt"]


def test_passages_of_one_section_are_one_row():
    made = [Passage(f"Rome\n{text}", "a.txt", "Rome", None, i) for i, text in enumerate(("A.", "B.", "Rome"))]
    assert list(generated_questions(made)) == [TrainingRow("Rome", ("A.", "B."))]


def test_questions_of_ones_own(passages):
    rows = generated_questions(passages, lambda passage: [f"What is in {passage.source}?", passage.text[:5]])
    assert rows[0] == TrainingRow("What is in guide.md?", tuple(p.text for p in passages if p.source == "guide.md"))
    for bad in (lambda passage: "one text", lambda passage: None):
        with pytest.raises(InvalidInputError):
            generated_questions(passages, bad)
    with pytest.raises(TrainingDataError):
        generated_questions(passages, lambda passage: [""])


def test_clicks_on_files_and_passages(passages, tmp_path):
    first = next(passage for passage in passages if passage.source == "guide.md")
    clicks = [
        {"question": "how heavy is a polar bear", "source": "guide.md"},
        {"question": "panda food", "source": first.id},
        {"question": "xyzzy", "source": "note.txt"},
    ]
    file = tmp_path / "clicks.jsonl"
    file.write_text("".join(json.dumps(click) + "\n" for click in clicks))
    rows = clicked_questions(file, passages)
    assert [row.query for row in rows] == [click["question"] for click in clicks]
    assert "half a ton" in rows[0].pos[0]
    assert rows[1].pos == (first.text,)
    assert rows[2].pos[0] in NOTE


def test_mistakes_in_clicks_have_their_lines(passages, tmp_path):
    file = tmp_path / "clicks.csv"
    file.write_text("query,file\nq,missing.md\n,guide.md\nq,guide.md\n")
    with pytest.raises(TrainingDataError) as error:
        clicked_questions(file, passages)
    assert [mistake.location.line for mistake in error.value.mistakes] == [2, 3]
    file.write_text("query,where\nq,guide.md\n")
    with pytest.raises(InvalidInputError):
        clicked_questions(file, passages)
