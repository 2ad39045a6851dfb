"""An extractive answer: the sentences of some passages that fit a question best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bge_integrations.core.selection import best

if TYPE_CHECKING:
    from bge_integrations.core.reranker import Reranker

_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage.

    Attributes:
        text: The sentence.
        passage: The number of its passage, from 1.
        score: The reranker's logit.
    """

    text: str
    passage: int
    score: float


def extract(question: str, passages: Sequence[str], reranker: Reranker, top_n: int = 3) -> list[Quote]:
    """The best sentences, best first."""
    sentences = [
        (sentence.strip(), number)
        for number, passage in enumerate(passages, start=1)
        for sentence in _END.split(passage)
        if sentence.strip()
    ]
    scores = reranker.score([(question, sentence) for sentence, _ in sentences]).tolist()
    return [Quote(*sentences[place], scores[place]) for place in best(scores, top_n, None)]
