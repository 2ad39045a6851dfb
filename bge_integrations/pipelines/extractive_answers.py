"""Answers without a language model: the sentences that match the question best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bge_integrations.documents.sentence_ends import sentences
from bge_integrations.scoring import select_best
from bge_integrations.validation import check_top_n

if TYPE_CHECKING:
    from bge_integrations.core.reranker import Reranker

__all__ = ["Quote", "cited", "extract", "sentences"]


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage.

    Attributes:
        text: The sentence, verbatim.
        passage: The passage's number, from 1.
        score: The reranker's logit for question and sentence.
    """

    text: str
    passage: int
    score: float


def extract(question: str, passages: Sequence[str], reranker: Reranker, top_n: int = 3) -> list[Quote]:
    """Return the sentences that match the question best, highest score first, without Markdown headings.

    They are the best sentences available, and may not answer the question.

    Args:
        question: The question.
        passages: The passages, best first. A sentence that occurs in several is quoted from the first.
        reranker: Scores each sentence.
        top_n: Maximum number of sentences.

    Raises:
        InvalidInputError: top_n is less than 1, or a text is invalid.
    """
    check_top_n(top_n)
    first: dict[str, int] = {}
    for number, passage in enumerate(passages, start=1):
        for sentence in sentences(passage):
            if not sentence.startswith("#"):
                first.setdefault(sentence, number)
    scores = reranker.score([(question, sentence) for sentence in first]).tolist()
    scored = [Quote(text, number, score) for (text, number), score in zip(first.items(), scores, strict=True)]
    return [scored[i] for i in select_best(scores, top_n)]


def cited(quotes: Sequence[Quote]) -> str:
    """Join the quotes, each followed by its passage's number: "Pandas eat bamboo. [1] They climb. [3]"."""
    return " ".join(f"{quote.text} [{quote.passage}]" for quote in quotes)
