"""Answers from passages, and from whole documents within a budget when the passages are not enough."""

import pytest

from bge_integrations.errors import InvalidInputError
from bge_integrations.generation import load_generator
from bge_integrations.pipelines.answers import numbered
from bge_integrations.pipelines.long_context import INSTRUCTION, NOT_ENOUGH, FoundPassage, LongContextAnswers


def words(count, first):
    return " ".join(f"w{first + i % 20}" for i in range(count))


DOCUMENTS = {"a": words(200, 0), "b": words(300, 20), "c": words(150, 40), "d": words(100, 60)}
FOUND = [FoundPassage(words(20, first), name) for first, name in ((20, "b"), (0, "a"), (20, "b"), (40, "c"))]


@pytest.fixture(scope="module")
def generator(beacon_folder):
    with load_generator(beacon_folder) as loaded:
        yield loaded


@pytest.fixture
def make(generator):
    def make(found=FOUND, **settings):
        return LongContextAnswers(generator, DOCUMENTS, lambda question: found, max_new_tokens=6, **settings)

    return make


def test_passages_are_read_first(make, generator):
    asked = []
    answers = LongContextAnswers(
        generator, DOCUMENTS, lambda question: asked.append(question) or FOUND, max_new_tokens=6, is_enough=bool
    )
    answer = answers.ask("w5")
    assert asked == ["w5"]
    assert (answer.read, answer.left_out, answer.is_enough) == ("passages", [], True)


def test_whole_documents_are_read_when_passages_are_not_enough(make, generator, monkeypatch):
    prompts = []
    generate = generator.generate
    monkeypatch.setattr(generator, "generate", lambda prompt, **kw: prompts.append(prompt) or generate(prompt, **kw))
    answer = make(is_enough=lambda text: False).ask("w5")
    assert (answer.read, answer.left_out) == ("documents", [])
    assert [DOCUMENTS[name] in prompts[1] for name in "abcd"] == [True, True, True, False]
    assert prompts[1].index(DOCUMENTS["b"]) < prompts[1].index(DOCUMENTS["a"])
    assert not any(DOCUMENTS[name] in prompts[0] for name in "abcd")
    assert prompts[1].startswith(INSTRUCTION)
    assert "[1] w20" in prompts[1]


def test_documents_are_chosen_by_the_budget(make):
    answer = make(budget=128 + 460, is_enough=lambda text: False).ask("w5")
    assert (answer.read, answer.left_out) == ("documents", ["a"])  # b and c fit together
    answer = make(budget=128 + 90, is_enough=lambda text: False).ask("w5")
    assert (answer.read, answer.left_out, answer.is_enough) == ("passages", ["b", "a", "c"], False)


def test_nothing_found_is_said_without_the_model(make):
    answer = make(found=[]).ask("w5")
    assert (answer.read, answer.sources, answer.is_enough) == ("nothing", [], False)


def test_cited_documents_are_the_sources(make, generator, monkeypatch):
    from bge_integrations.generation import Generation

    replies = iter([f"{NOT_ENOUGH}.", "It is so [2], and [3][7]."])
    monkeypatch.setattr(generator, "generate", lambda prompt, **_: Generation(next(replies), "stop", 1, 1))
    answer = make().ask("w5")
    assert [(source.number, source.metadata["document"]) for source in answer.sources] == [(2, "a"), (3, "c")]
    assert (answer.read, answer.is_enough) == ("documents", True)
    assert numbered(answer.sources).startswith("[2] w0")


@pytest.mark.parametrize("settings", [{"budget": 100}, {"budget": 10**9}, {"budget": 0}])
def test_bad_budgets_are_refused(make, settings):
    with pytest.raises(InvalidInputError) as caught:
        make(**settings)
    assert caught.value.argument == "budget"


def test_bad_questions_and_unknown_documents_are_refused(make):
    for question in ("", " ", None):
        with pytest.raises(InvalidInputError):
            make().ask(question)
    with pytest.raises(InvalidInputError):
        make(found=[FoundPassage("w1", "z")]).ask("w1")
