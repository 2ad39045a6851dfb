"""Which of the scored candidates a reranker keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bge_integrations.errors import InvalidInputError


def best(scores: Sequence[float], top_n: int | None, score_threshold: float | None) -> list[int]:
    """The places of the highest scores, highest first, equal ones in their order.

    Args:
        scores: One per candidate.
        top_n: At most so many; None takes all.
        score_threshold: None that scores less; None takes all.
    """
    places = sorted(range(len(scores)), key=lambda place: -scores[place])
    if score_threshold is not None:
        places = [place for place in places if scores[place] >= score_threshold]
    return places[:top_n]


def check_k(k: int, argument: str = "k") -> int:
    """`k` of one call, or InvalidInputError."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InvalidInputError(f"{argument}={k!r} must be a whole number of at least 1")
    return k


def check_top_n(top_n: int | None) -> int | None:
    """`top_n`, or InvalidInputError."""
    if top_n is not None and top_n < 1:
        raise InvalidInputError(f"top_n={top_n} must be at least 1, or None to keep all")
    return top_n


def check_score_threshold(score_threshold: float | None) -> float | None:
    """`score_threshold`, or InvalidInputError."""
    if score_threshold is not None and math.isnan(score_threshold):
        raise InvalidInputError("score_threshold=nan would drop everything; use a number, or None")
    return score_threshold
