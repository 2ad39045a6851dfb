"""The batches of the training: queries, the texts that answer them, and similar mined texts, all of them lessons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_training.data import Corpus
from pocket_training.teacher import JOINED, Lessons

QUERY_LENGTH = 64
LENGTH = 128
LONG = 320
#: Spans of passages that serve as queries for their passage.
SPAN_PAIRS = 20_000


@dataclass
class Pairs:
    """Queries and texts that answer them, as indices of lessons, and the corpus passage that does; each (n,)."""

    queries: np.ndarray
    texts: np.ndarray
    golds: np.ndarray

    def __len__(self) -> int:
        return len(self.queries)


@dataclass
class Batch:
    """The first n of the texts (m >= n,) belong to the n queries, in order; all are indices of lessons.

    `golds` (n,) are the queries' corpus passages; `rows` (m, 2) are the range of corpus passages in each text.
    """

    queries: np.ndarray
    texts: np.ndarray
    golds: np.ndarray
    rows: np.ndarray

    def excluded(self) -> np.ndarray:
        """Return bool (n, m): other texts that contain a query's passage or answer the same query."""
        firsts, ends = self.rows.T
        holds = (firsts[None] <= self.golds[:, None]) & (self.golds[:, None] < ends[None])
        n = len(self.queries)
        holds[:, :n] |= self.queries[:, None] == self.queries[None]
        holds[np.arange(n), np.arange(n)] = False
        return np.asarray(holds)


def text_of_passage(lessons: Lessons, passages: int) -> np.ndarray:
    """Return int64 (passages,): the text that consists of one corpus passage, or -1 if the teacher has not read it."""
    single = lessons.documents[JOINED:]
    places = np.full(passages, -1)
    places[lessons.rows[single, 0]] = single
    return places


def make_pairs(corpus: Corpus, lessons: Lessons, seed: int) -> Pairs:
    """Return the corpus' pairs, also with joined passages as their texts, and spans with the passage they are from."""
    places = text_of_passage(lessons, len(corpus.texts))
    queries, golds = corpus.pairs.T
    parts = [np.stack([lessons.queries[queries], places[golds], golds], 1)]

    asked: dict[int, list[int]] = {}
    for query, gold in corpus.pairs.tolist():
        asked.setdefault(gold, []).append(query)
    joined = [
        (lessons.queries[query], text, gold)
        for text in lessons.documents[:JOINED].tolist()
        for gold in (range(*lessons.rows[text]) if np.ptp(lessons.rows[text]) > 1 else ())
        for query in asked.get(gold, ())
    ]
    parts.append(np.array(joined, dtype=np.int64).reshape(-1, 3))

    spans = np.random.default_rng([seed, 14]).choice(lessons.spans, SPAN_PAIRS, replace=False)
    sources = lessons.rows[spans, 0]
    parts.append(np.stack([spans, places[sources], sources], 1))
    table = np.concatenate(parts)
    return Pairs(*table[(table[:, :2] >= 0).all(1)].T)


def make_batch(lessons: Lessons, pairs: Pairs, negatives: np.ndarray, chosen: np.ndarray, drawn: np.ndarray) -> Batch:
    """Make a batch of the pairs `chosen` (n,), each with its negative number `drawn` (n,) of negatives (pairs, k)."""
    texts = np.concatenate([pairs.texts[chosen], negatives[chosen, drawn]])
    return Batch(pairs.queries[chosen], texts, pairs.golds[chosen], lessons.rows[texts])
