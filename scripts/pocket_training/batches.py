"""What a training step of the embedder sees: queries, their passages, and mined passages that look alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_training.data import Corpus, Tokens

QUERY_LENGTH = 64
LENGTH = 128
LONG = 320
#: The share of the embedder's texts that are a stretch of neighbouring passages instead of one.
LONG_SHARE = 0.25
CROP_LENGTHS = (6, 25)
SHORTEST_CROPPED = 40


@dataclass
class Batch:
    """Queries and passages as token ids without specials; the first passages are the queries' own, in their order.

    `queries` (n,) numbers the queries, `golds` (n,) the passage of each; `firsts` and `ends` (m >= n,) say which
    passages of the corpus each text holds.
    """

    query_ids: list[np.ndarray]
    passage_ids: list[np.ndarray]
    queries: np.ndarray
    golds: np.ndarray
    firsts: np.ndarray
    ends: np.ndarray

    def excluded(self) -> np.ndarray:
        """bool (n, m): texts that hold the query's passage, or answer the same query, without being its own."""
        holds = (self.firsts[None] <= self.golds[:, None]) & (self.golds[:, None] < self.ends[None])
        n = len(self.queries)
        holds[:, :n] |= self.queries[:, None] == self.queries[None]
        holds[np.arange(n), np.arange(n)] = False
        return holds


def stretch(row: int, corpus: Corpus, tokens: Tokens, length: int, generator: np.random.Generator) -> tuple[int, int]:
    """(first, end) of neighbouring passages around `row`, grown to either side while they fit in `length` ids."""
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
    """Ids of texts that hold these passages, and the first and the end of the passages that each text holds.

    A share of them are stretches of neighbours, up to LONG ids; half carry the title.
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
    """A run of a passage's ids as a query, and the passage: mostly without that run, so words alone don't do."""
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
    """Pairs `rows` with one of their negatives (pairs, k) each, and `cropped` queries cut from passages."""
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
