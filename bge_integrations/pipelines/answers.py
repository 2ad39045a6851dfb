"""Answers with citations: what a model is told, and how its [1] and [2] become sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.pipelines.extractive_answers import cited, extract

if TYPE_CHECKING:
    from bge_integrations.core.reranker import Reranker

INSTRUCTION = (
    "Answer the question from the numbered passages only. Behind each statement put the number of the passage that it "
    "is from, like [1] or [1][2]. If the passages do not hold the answer, say so."
)
CONDENSE = (
    "Rewrite the last question so that it can be understood without the conversation before it. Reply with the "
    "question only."
)
NOTHING_FOUND = "No passage was found for this question."
#: So many earlier questions are put in front of a question where no model rewrites it: more would drown it.
EARLIER_QUESTIONS = 3
_CITATION = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")


@dataclass(frozen=True)
class Source:
    """A passage that was found for a question.

    Attributes:
        number: As the answer cites it, from 1.
        text: The passage.
        metadata: The passage's own: its file as "source", "title", "page" where there is one.
    """

    number: int
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer, and the passages it cites.

    Attributes:
        text: With citations by number: [1], [2].
        sources: The passages with these numbers, in the order of the numbers. Empty where nothing is cited.
    """

    text: str
    sources: list[Source]


def check_question(question: object) -> str:
    """`question`, or InvalidInputError."""
    if not isinstance(question, str) or not question.strip():
        raise InvalidInputError(f"the question is {question!r}; ask one in words")
    return question


def after_earlier(question: str, earlier: Sequence[str]) -> str:
    """The question behind the last three questions before it: what is done where no model rewrites it."""
    return " ".join([*earlier[-EARLIER_QUESTIONS:], check_question(question)])


def numbered(sources: Sequence[Source]) -> str:
    """The passages as a model reads them, each behind its number."""
    return "\n\n".join(f"[{source.number}] {source.text}" for source in sources)


def cited_answer(text: str, sources: Sequence[Source]) -> Answer:
    """A model's answer; citations that name none of the passages stay in the text, but become no source."""
    numbers = {int(number) for group in _CITATION.findall(text) for number in group.split(",")}
    return Answer(text, [source for source in sources if source.number in numbers])


def quoted_answer(question: str, sources: Sequence[Source], reranker: Reranker, top_n: int = 3) -> Answer:
    """The passages' sentences that fit the question best, word by word; no language model."""
    quotes = extract(question, [_without_title(source) for source in sources], reranker, top_n)
    if not quotes:
        return Answer(NOTHING_FOUND, [])
    numbers = {quote.passage for quote in quotes}
    return Answer(cited(quotes), [source for source in sources if source.number in numbers])


def _without_title(source: Source) -> str:
    """The text without its title in front: titles are near to questions, and state nothing."""
    return source.text.removeprefix(f"{source.metadata.get('title')}\n")
