"""The batches of the embedder's training: queries, their passages, and similar mined passages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_training.data import Corpus, Tokens

QUERY_LENGTH = 64
LENGTH = 128
LONG = 320
#: The share of the embedder's texts that consist of several neighbouring passages instead of one.
LONG_SHARE = 0.25
CROP_LENGTHS = (6, 25)
SHORTEST_CROPPED = 40


@dataclass
class Batch:
    """Queries and passages as token ids without special tokens; the first n passages belong to the n queries, in order.

    `queries` (n,) and `golds` (n,) are the indices of the queries and their passages; `firsts` and `ends` (m >= n,) are
    the range of corpus passages in each text.
    """

    query_ids: list[np.ndarray]
    passage_ids: list[np.ndarray]
    queries: np.ndarray
    golds: np.ndarray
    firsts: np.ndarray
    ends: np.ndarray

    def excluded(self) -> np.ndarray:
        """Return bool (n, m): other texts that contain a query's passage or answer the same query."""
        holds = (self.firsts[None] <= self.golds[:, None]) & (self.golds[:, None] < self.ends[None])
        n = len(self.queries)
        holds[:, :n] |= self.queries[:, None] == self.queries[None]
        holds[np.arange(n), np.arange(n)] = False
        return holds


def stretch(row: int, corpus: Corpus, tokens: Tokens, length: int, generator: np.random.Generator) -> tuple[int, int]:
    """Return (first, end) of the neighbouring passages around `row` that fit in `length` ids, grown on both sides."""
    first, end = row, row + 1
    low, high = corpus.sections[row].tolist()
    total = len(tokens.texts[row])
    while first > low or end < high:
        before = first > low and (end == high or generator.random() < 0.5)
        total += len(tokens.texts[first - 1 if before else end])
        if total > length:
            break
        first, end = (first - 1, end) if before else (first, end + 1)
    return first, end


def passage_texts(
    rows: np.ndarray, corpus: Corpus, tokens: Tokens, generator: np.random.Generator, long_share: float
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the ids of texts with these passages, and the first and the end of the passages in each text.

    A share of the texts has several neighbouring passages, up to LONG ids; half have the title.
    """
    spans = [
        stretch(row, corpus, tokens, LONG, generator) if generator.random() < long_share else (row, row + 1)
        for row in rows.tolist()
    ]
    texts = [
        tokens.passage(first, end, generator.random() < 0.5, LONG if end - first > 1 else LENGTH)
        for first, end in spans
    ]
    firsts, ends = np.array(spans).T
    return texts, firsts, ends


def crop(ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a query from a passage; return it and the passage, mostly without it, so that words alone can't match."""
    length = int(generator.integers(*CROP_LENGTHS))
    start = int(generator.integers(0, len(ids) - length + 1))
    rest = ids if generator.random() < 0.2 else np.concatenate([ids[:start], ids[start + length :]])
    return ids[start : start + length], rest


def make_batch(
    corpus: Corpus,
    tokens: Tokens,
    negatives: np.ndarray,
    rows: np.ndarray,
    cropped: int,
    generator: np.random.Generator,
) -> Batch:
    """Make a batch: the pairs `rows`, a random one of each pair's negatives (pairs, k), and `cropped` cut queries."""
    golds = corpus.pairs[rows, 1]
    drawn = negatives[rows, generator.integers(negatives.shape[1], size=len(rows))]
    sources = generator.integers(len(tokens.texts), size=cropped)
    sources = sources[[len(tokens.texts[row]) >= SHORTEST_CROPPED for row in sources]]
    crops = [crop(tokens.texts[row], generator) for row in sources]

    texts, firsts, ends = passage_texts(np.concatenate([golds, drawn]), corpus, tokens, generator, LONG_SHARE)
    n = len(rows)

    def between(own: np.ndarray, cut: np.ndarray) -> np.ndarray:
        return np.concatenate([own[:n], cut, own[n:]])

    return Batch(
        [tokens.queries[q][:QUERY_LENGTH] for q in corpus.pairs[rows, 0]] + [query for query, _ in crops],
        texts[:n] + [text[:LENGTH] for _, text in crops] + texts[n:],
        np.concatenate([corpus.pairs[rows, 0], -1 - sources]),
        np.concatenate([golds, sources]),
        between(firsts, sources),
        between(ends, sources + 1),
    )
