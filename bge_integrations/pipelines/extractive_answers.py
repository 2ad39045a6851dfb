"""Answers without a language model: the sentences that match the question best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from bge_integrations.documents.sentence_ends import sentences
from bge_integrations.scoring import hybrid_scores, representation_scores, select_best
from bge_integrations.validation import check_top_n

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder

__all__ = ["EmbedderScorer", "Quote", "Scorer", "cited", "extract", "sentences"]


class Scorer(Protocol):
    """Scores how well texts answer questions, as a `Reranker` does."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return a score for each (question, text), float32 (n,); higher is better."""


class EmbedderScorer:
    """Scores texts by an embedding model alone: the mean of bge-m3's three scores, or the cosine.

    Args:
        embedder: The model.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return a score for each (question, text), float32 (n,)."""
        embedder = self._embedder
        row_of = {question: row for row, question in enumerate(dict.fromkeys(question for question, _ in pairs))}
        encode = partial(embedder.encode, sparse=embedder.has_sparse, multi_vector=embedder.has_multi_vector)
        questions = encode(list(row_of), kind="query")
        texts = encode([text for _, text in pairs], kind="passage")
        if embedder.has_sparse:
            scores = hybrid_scores(questions, texts).hybrid
        else:
            scores = representation_scores("dense", questions, texts)
        return scores[[row_of[question] for question, _ in pairs], range(len(pairs))]


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage.

    Attributes:
        text: The sentence, verbatim.
        passage: The passage's number, from 1.
        score: The score of question and sentence: a reranker's logit, or an `EmbedderScorer`'s mean.
    """

    text: str
    passage: int
    score: float


def extract(question: str, passages: Sequence[str], scorer: Scorer, top_n: int = 3) -> list[Quote]:
    """Return the sentences that match the question best, highest score first, without Markdown headings.

    They are the best sentences available, and may not answer the question.

    Args:
        question: The question.
        passages: The passages, best first. A sentence that occurs in several is quoted from the first.
        scorer: Scores each sentence: a reranker or an `EmbedderScorer`.
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
    scores = scorer.score([(question, sentence) for sentence in first]).tolist()
    scored = [Quote(text, number, score) for (text, number), score in zip(first.items(), scores, strict=True)]
    return [scored[i] for i in select_best(scores, top_n)]


def cited(quotes: Sequence[Quote]) -> str:
    """Join the quotes, each followed by its passage's number: "Pandas eat bamboo. [1] They climb. [3]"."""
    return " ".join(f"{quote.text} [{quote.passage}]" for quote in quotes)
