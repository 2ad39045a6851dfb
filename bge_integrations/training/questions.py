"""Training rows from documents: questions made from headings and first sentences, or questions that users clicked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from bge_integrations.documents.sentence_ends import sentences
from bge_integrations.documents.splitting import Passage
from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation import Dataset, bm25
from bge_integrations.training.layouts import read_table
from bge_integrations.training.row_checks import RowCollector
from bge_integrations.training.rows import Location, TrainingRows

#: Names of the columns of a file with clicked questions.
_QUESTION = ("question", "query", "anchor")
_TARGET = ("passage", "source", "file", "document", "url")
#: A first sentence with fewer words says too little to be a question.
_FEWEST_WORDS = 5


def generated_questions(
    passages: Iterable[Passage], make_questions: Callable[[Passage], Iterable[str]] | None = None
) -> TrainingRows:
    """Make training rows from passages.

    Without `make_questions`, each passage gives at most one question: the title and heading above it, and the positive
    is the passage without them; or, if it has none, its first sentence, and the positive is the rest. Headings are not
    questions, so expect less than from real ones.

    Args:
        passages: As from `documents.read_passages`.
        make_questions: Returns the questions that a passage answers, for example by asking a language model. The whole
            passage is then the positive.

    Raises:
        InvalidInputError: No passage gives a question, or `make_questions` returns something else than texts.
    """
    collector = RowCollector()
    answers: dict[str, dict[str, Location]] = {}
    for passage in passages:
        location = Location(Path(passage.source), 0)
        if make_questions is None:
            pairs = _heading_question(passage) or _first_sentence(passage)
        else:
            questions = make_questions(passage)
            if isinstance(questions, str) or not isinstance(questions, Iterable):
                raise InvalidInputError(
                    f"make_questions returned {questions!r} for {passage.id}, not a list of texts",
                    argument="make_questions",
                )
            pairs = [(question, passage.text) for question in questions]
        for question, text in pairs:
            if collector.check({"query": question, "pos": [text]}, location):
                answers.setdefault(question, {}).setdefault(text, location)
    for question, texts in answers.items():
        collector.add({"query": question, "pos": list(texts)}, next(iter(texts.values())))
    return collector.finish()


def clicked_questions(
    clicks: str | os.PathLike[str], passages: Iterable[Passage], *, language: str = "english"
) -> TrainingRows:
    """Make training rows from questions and the file or passage that users opened for each.

    Args:
        clicks: JSONL, CSV, TSV or Parquet with the columns `question` (or `query`) and `passage` (or `source`, `file`,
            `document`, `url`): the id of a passage ("guide.md#120"), or its source ("guide.md"). Of a source, the
            passage that BM25 ranks first for the question is the positive, since a click on a file does not say which.
        passages: As from `documents.read_passages`.
        language: Of BM25, as in `evaluation.bm25`.

    Raises:
        TrainingDataError: A question is blank, or there is no such passage or source; it names each line.
        InvalidInputError: The file has no such columns.
    """
    by_id = {passage.id: passage for passage in passages}
    of_source: dict[str, list[str]] = {}
    for key, passage in by_id.items():
        of_source.setdefault(passage.source, []).append(key)
    collector = RowCollector()
    opened: list[tuple[Location, str, list[str]]] = []
    for location, row in read_table(Path(clicks), collector):
        question, target = (_column(row, names, location) for names in (_QUESTION, _TARGET))
        if not collector.check({"query": question, "pos": [target]}, location):
            continue
        ids = [target] if target in by_id else of_source.get(target, [])
        if ids:
            opened.append((location, question, ids))
        else:
            collector.reject(location, "passage", f"there is no passage or file {target!r} in the documents")
    answers: dict[str, dict[str, Location]] = {}
    for (location, question, _), key in zip(opened, _best(opened, by_id, language), strict=True):
        answers.setdefault(question, {}).setdefault(by_id[key].text, location)
    for question, texts in answers.items():
        collector.add({"query": question, "pos": list(texts)}, next(iter(texts.values())))
    return collector.finish()


def _heading_question(passage: Passage) -> list[tuple[str, str]]:
    """Return the title and the heading, and the passage without them; nothing if it has neither or is only these."""
    headings = [passage.title, *filter(None, passage.section.split(" > "))]
    lines = passage.text.splitlines()
    found = bool(passage.section)
    while lines and ((line := lines[0].strip("#=- \t")) in headings or not line):
        found = found or bool(line)
        del lines[0]
    body = "\n".join(lines).strip()
    if not found or not body:
        return []
    last = headings[-1]
    title = "" if passage.title.casefold() in last.casefold() else f"{passage.title} "
    return [(title + last, body)]


def _first_sentence(passage: Passage) -> list[tuple[str, str]]:
    first, *others = sentences(passage.text) or [""]
    rest = passage.text.partition(first)[2].strip()
    # languages without spaces have few words; what counts there is that the sentence is not the whole passage
    long_enough = len(first.split()) >= _FEWEST_WORDS or not first.isascii()
    return [(first, rest)] if others and long_enough and rest else []


def _column(row: dict[str, str], names: tuple[str, ...], location: Location) -> str:
    for name in names:
        if name in row:
            return row[name]
    raise InvalidInputError(
        f"{location} has no column {names[0]!r}, only {', '.join(map(repr, row))}",
        argument="data",
        advice="each line needs a question, and the passage or file that was opened",
    )


def _best(opened: list[tuple[Location, str, list[str]]], by_id: dict[str, Passage], language: str) -> list[str]:
    """Return the passage of each click: the only one, or the one that BM25 ranks first."""
    unclear = {f"q{i}": (question, ids) for i, (_, question, ids) in enumerate(opened) if len(ids) > 1}
    rankings = {}
    if unclear:
        data = Dataset(
            queries={key: question for key, (question, _) in unclear.items()},
            documents={key: passage.text for key, passage in by_id.items()},
            qrels={key: dict.fromkeys(ids, 1) for key, (_, ids) in unclear.items()},
        )
        rankings = bm25(data, depth=len(by_id), language=language).rankings
    best = []
    for i, (_, _, ids) in enumerate(opened):
        ranked = [document for document, _ in rankings.get(f"q{i}", ()) if document in ids]
        best.append(ranked[0] if ranked else ids[0])
    return best
