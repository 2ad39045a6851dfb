"""Choose negatives among the passages that a search ranked: drop what may answer the query, and sample the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.rows import normalized
from bge_integrations.validation import check_choice, check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.training.searching import Query, Ranking

#: `normalized`, remembered, because the same passage is a candidate for many queries.
words_of = lru_cache(maxsize=1 << 16)(normalized)


@dataclass(frozen=True)
class Limits:
    """Which ranked passages are candidates; `mine_negatives` describes the fields.

    Raises:
        InvalidInputError: A field is invalid.
    """

    rank_range: tuple[int, int]
    min_score: float | None = None
    max_score: float | None = None
    margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        ranks = self.rank_range
        is_pair = isinstance(ranks, Sequence) and len(ranks) == 2 and all(isinstance(rank, int) for rank in ranks)
        if not is_pair or not 0 <= ranks[0] < ranks[1]:
            raise InvalidInputError(
                f"{spelled('rank_range', ranks)} must be two whole numbers, the second above the first",
                argument="rank_range",
            )
        for name in ("min_score", "max_score", "margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InvalidInputError(f"{spelled(name, value)} must be a finite number", argument=name)

    @property
    def depth(self) -> int:
        """How many passages must be ranked."""
        return self.rank_range[1]

    @property
    def has_margin(self) -> bool:
        """Whether the scores of the positives are needed."""
        return self.margin is not None or self.relative_margin is not None

    def _below(self, lowest: float) -> float:
        """Return the highest score that the margins allow under the lowest-scoring positive."""
        absolute = math.inf if self.margin is None else lowest - self.margin
        return absolute if self.relative_margin is None else min(absolute, lowest - self.relative_margin * abs(lowest))

    def candidates(self, query: Query, ranking: Ranking, dropped: Counter[str]) -> list[str]:
        """Return the candidates in the order of their ranks, and count the dropped passages by reason."""
        known = {words_of(text): "positive" for text in query.positives} | {words_of(query.text): "query"}
        most = math.inf if self.max_score is None else self.max_score
        most_below = self._below(float(ranking.positives.min())) if self.has_margin else math.inf
        candidates = []
        ranks = slice(*self.rank_range)
        for passage, score in zip(ranking.passages[ranks].tolist(), ranking.scores[ranks].tolist(), strict=True):
            text = ranking.texts[passage]
            words = words_of(text)
            reason = known.get(words)
            if reason is None and (score > most or (self.min_score is not None and score < self.min_score)):
                reason = "score"
            if reason is None and score > most_below:
                reason = "margin"
            if reason is None:
                candidates.append(text)
                known[words] = "duplicate"
            else:
                dropped[reason] += 1
        return candidates


@dataclass
class Chooser:
    """Chooses the negatives of rows; `mine_negatives` describes the first fields.

    Attributes:
        judge: A reranker that must accept the candidates.
        fill_from: Passages that short rows are filled from; None fills none.
        short: Positions of the rows with too few negatives, before they are filled.
        filled: Number of negatives that were drawn at random.
        dropped: Number of candidates that were dropped, by reason.
    """

    limits: Limits
    negatives: int
    sampling: Literal["random", "top"]
    judge_margin: float
    seed: int
    judge: Reranker | None = None
    fill_from: Sequence[str] | None = None
    short: list[int] = field(default_factory=list)
    filled: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        check_whole_number(self.negatives, "negatives")
        check_whole_number(self.seed, "seed", least=0)
        check_choice(self.sampling, "sampling", ("random", "top"))
        if not math.isfinite(self.judge_margin):
            raise InvalidInputError(
                f"{spelled('judge_margin', self.judge_margin)} must be a finite number", argument="judge_margin"
            )

    def choose(self, found: Sequence[tuple[Query, Ranking]]) -> dict[int, tuple[str, ...]]:
        """Return the negatives of all rows with these queries, by the rows' positions, in the order of their ranks."""
        queries, orders, ranks = {}, {}, {}
        for query, ranking in found:
            candidates = self.limits.candidates(query, ranking, self.dropped)
            for row in query.rows:
                queries[row], ranks[row] = query, {text: rank for rank, text in enumerate(candidates)}
                orders[row] = candidates
                if self.sampling == "random":
                    orders[row] = [candidates[i] for i in self._generator(row).permutation(len(candidates))]
        if self.judge is None:
            accepted = {row: order[: self.negatives] for row, order in orders.items()}
        else:
            accepted = self._judged(self.judge, queries, orders)
        chosen = {}
        for row, texts in accepted.items():
            negatives = sorted(texts, key=ranks[row].__getitem__)
            if len(negatives) < self.negatives:
                self.short.append(row)
                negatives += self._random(queries[row], negatives, row)
            chosen[row] = tuple(negatives)
        return chosen

    def _judged(
        self, judge: Reranker, queries: Mapping[int, Query], orders: Mapping[int, Sequence[str]]
    ) -> dict[int, list[str]]:
        """Return for each row the first candidates that the judge accepts; it scores no more than it needs to."""
        pairs = [(row, text) for row, query in queries.items() for text in query.positives]
        most: dict[int, float] = {}
        for row, score in self._scored(judge, queries, pairs):
            most[row] = min(score - self.judge_margin, most.get(row, math.inf))
        accepted: dict[int, list[str]] = {row: [] for row in orders}
        asked = dict.fromkeys(orders, 0)
        while True:
            pairs = []
            for row, order in orders.items():
                texts = order[asked[row] : asked[row] + self.negatives - len(accepted[row])]
                asked[row] += len(texts)
                pairs += [(row, text) for text in texts]
            if not pairs:
                return accepted
            for (row, text), (_, score) in zip(pairs, self._scored(judge, queries, pairs), strict=True):
                if score <= most[row]:
                    accepted[row].append(text)
                else:
                    self.dropped["judge"] += 1

    @staticmethod
    def _scored(
        judge: Reranker, queries: Mapping[int, Query], pairs: Sequence[tuple[int, str]]
    ) -> Iterable[tuple[int, float]]:
        scores = judge.score([(queries[row].text, text) for row, text in pairs])
        return [(row, score) for (row, _), score in zip(pairs, scores.tolist(), strict=True)]

    def _random(self, query: Query, negatives: Sequence[str], row: int) -> list[str]:
        """Return passages to fill a short row with: no positive, not the query, none of its negatives."""
        if self.fill_from is None:
            return []
        known = {words_of(text) for text in (query.text, *query.positives, *negatives)}
        missing = self.negatives - len(negatives)
        size = min(len(self.fill_from), 2 * (missing + len(known)))
        texts: dict[str, str] = {}
        for i in self._generator(row, "fill").choice(len(self.fill_from), size, replace=False).tolist():
            words = words_of(self.fill_from[i])
            if words not in known and len(texts) < missing:
                texts.setdefault(words, self.fill_from[i])
        self.filled += len(texts)
        return list(texts.values())

    def _generator(self, row: int, purpose: str = "") -> np.random.Generator:
        """Return a generator of its own for each row, so that no row depends on what others drew."""
        return np.random.default_rng([self.seed, row, len(purpose)])
