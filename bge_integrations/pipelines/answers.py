"""Answers with citations: the prompts for a chat model, and how its [1] and [2] become sources."""

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
#: Earlier questions put in front of a question if no chat model rewrites it; more would drown it.
EARLIER_QUESTIONS = 3
_CITATION = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")


@dataclass(frozen=True)
class Source:
    """A passage retrieved for a question.

    Attributes:
        number: The number the answer cites it by, from 1.
        text: The passage.
        metadata: The passage's metadata: its file as "source", "title", and "page" if there is one.
    """

    number: int
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer and the passages it cites.

    Attributes:
        text: With citations by number: [1], [2].
        sources: The passages with these numbers, in the order of the numbers. Empty if nothing is cited.
    """

    text: str
    sources: list[Source]


def check_question(question: object) -> str:
    """Return `question`; raise InvalidInputError unless it is a text with words."""
    if not isinstance(question, str) or not question.strip():
        raise InvalidInputError(f"the question is {question!r}; ask one in words")
    return question


def after_earlier(question: str, earlier: Sequence[str]) -> str:
    """Put the last three earlier questions in front of the question; used if no chat model rewrites it."""
    return " ".join([*earlier[-EARLIER_QUESTIONS:], check_question(question)])


def numbered(sources: Sequence[Source]) -> str:
    """Format the passages for a chat model, each after its number."""
    return "\n\n".join(f"[{source.number}] {source.text}" for source in sources)


def cited_answer(text: str, sources: Sequence[Source]) -> Answer:
    """Return a chat model's answer with its sources; numbers that match no passage stay in the text and are ignored."""
    numbers = {int(number) for group in _CITATION.findall(text) for number in group.split(",")}
    return Answer(text, [source for source in sources if source.number in numbers])


def quoted_answer(question: str, sources: Sequence[Source], reranker: Reranker, top_n: int = 3) -> Answer:
    """Quote the sentences that the reranker scores highest for the question; no language model is used."""
    quotes = extract(question, [_without_title(source) for source in sources], reranker, top_n)
    if not quotes:
        return Answer(NOTHING_FOUND, [])
    numbers = {quote.passage for quote in quotes}
    return Answer(cited(quotes), [source for source in sources if source.number in numbers])


def _without_title(source: Source) -> str:
    """Remove the title in front of the text: titles resemble questions but state nothing."""
    return source.text.removeprefix(f"{source.metadata.get('title')}\n")
