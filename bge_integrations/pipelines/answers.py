"""Answers with citations: prompts for a chat model, and parsing its [1] and [2] into sources."""

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
    "Answer the question from the numbered passages only. After each statement, cite the number of the passage that it "
    "comes from, like [1] or [1][2]. If the passages do not contain the answer, say so."
)
CONDENSE = (
    "Rewrite the last question so that it can be understood without the conversation before it. Reply with the "
    "question only."
)
NOTHING_FOUND = "No passage was found for this question."
#: Number of earlier questions to prepend if no chat model rewrites the question; more would drown it.
EARLIER_QUESTIONS = 3
_CITATION = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")


@dataclass(frozen=True)
class Source:
    """A passage retrieved for a question.

    Attributes:
        number: Its number in the citations, from 1.
        text: The text of the passage.
        metadata: Its metadata: the file as "source", "title", and "page" if there is one.
    """

    number: int
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer and the passages it cites.

    Attributes:
        text: The answer, with citations such as [1] and [2].
        sources: The cited passages, sorted by number. Empty if nothing is cited.
    """

    text: str
    sources: list[Source]


def check_question(question: object) -> str:
    """Return `question`; raise InvalidInputError unless it is a str that is not blank."""
    if not isinstance(question, str) or not question.strip():
        raise InvalidInputError(
            f"question={question!r} is empty or not a str", argument="question", advice="pass a question"
        )
    return question


def after_earlier(question: str, earlier: Sequence[str]) -> str:
    """Prepend the last three earlier questions to the question, for use without a chat model."""
    return " ".join([*earlier[-EARLIER_QUESTIONS:], check_question(question)])


def numbered(sources: Sequence[Source]) -> str:
    """Format the passages for a chat model, each with its number."""
    return "\n\n".join(f"[{source.number}] {source.text}" for source in sources)


def cited_answer(text: str, sources: Sequence[Source]) -> Answer:
    """Return a chat model's answer with the cited sources; numbers without a passage are ignored."""
    numbers = {int(number) for group in _CITATION.findall(text) for number in group.split(",")}
    return Answer(text, [source for source in sources if source.number in numbers])


def quoted_answer(question: str, sources: Sequence[Source], reranker: Reranker, top_n: int = 3) -> Answer:
    """Answer with the sentences that the reranker scores highest, without a language model."""
    quotes = extract(question, [_without_title(source) for source in sources], reranker, top_n)
    if not quotes:
        return Answer(NOTHING_FOUND, [])
    numbers = {quote.passage for quote in quotes}
    return Answer(cited(quotes), [source for source in sources if source.number in numbers])


def _without_title(source: Source) -> str:
    """Return the text without its title, because titles resemble questions but answer nothing."""
    return source.text.removeprefix(f"{source.metadata.get('title')}\n")
