"""Passages that look relevant but are not a pair's: found by BM25 and by the bag of token vectors."""

from __future__ import annotations

import bm25s
import numpy as np
from bm25s.tokenization import Tokenized
from rich.progress import Progress

from pocket_training.bag import Bag, bag_vectors
from pocket_training.data import VOCABULARY_SIZE, Corpus, Tokens

BATCH = 1000
FOUND = 40
NEIGHBOURS = 3


def lexical_candidates(tokens: Tokens, queries: list[np.ndarray], progress: Progress) -> np.ndarray:
    """int32 (queries, FOUND): passages by falling BM25 score over our word pieces."""
    index = bm25s.BM25()
    vocabulary = {str(i): i for i in range(VOCABULARY_SIZE)}
    index.index(Tokenized(ids=[ids.tolist() for ids in tokens.texts], vocab=vocabulary), show_progress=False)
    found = np.empty((len(queries), FOUND), dtype=np.int32)
    for start in progress.track(range(0, len(queries), BATCH), description="BM25 negatives"):
        batch = [[str(token) for token in ids] for ids in queries[start : start + BATCH]]
        rows, _ = index.retrieve(batch, k=FOUND, show_progress=False, n_threads=2)
        found[start : start + BATCH] = rows
    return found


def vector_candidates(queries: np.ndarray, passages: np.ndarray, progress: Progress) -> np.ndarray:
    """int32 (queries, FOUND): passages by falling inner product."""
    found = np.empty((len(queries), FOUND), dtype=np.int32)
    for start in progress.track(range(0, len(queries), BATCH), description="vector negatives"):
        scores = queries[start : start + BATCH] @ passages.T
        rows = np.argpartition(scores, -FOUND, axis=1)[:, -FOUND:]
        order = np.argsort(-np.take_along_axis(scores, rows, 1), axis=1)
        found[start : start + BATCH] = np.take_along_axis(rows, order, 1)
    return found


def choose_negatives(corpus: Corpus, candidates: list[np.ndarray], count: int, seed: int) -> np.ndarray:
    """int32 (pairs, count): drawn in equal parts from each candidate list (queries, FOUND).

    Left out: every positive of the query, and passages of the positive's title next to it, which often continue it.
    """
    positives: dict[int, set[int]] = {}
    for query, passage in corpus.pairs.tolist():
        positives.setdefault(query, set()).add(passage)
    generator = np.random.default_rng([seed, 6])
    share = count // len(candidates)
    chosen = np.empty((len(corpus.pairs), share * len(candidates)), dtype=np.int32)
    for i, (query, passage) in enumerate(corpus.pairs.tolist()):
        drawn: list[int] = []
        for found in candidates:
            allowed = [
                row
                for row in found[query].tolist()
                if row not in positives[query]
                and not (abs(row - passage) <= NEIGHBOURS and corpus.titles[row] == corpus.titles[passage])
            ]
            drawn.extend(generator.choice(allowed, share, replace=len(allowed) < share).tolist())
        chosen[i] = drawn
    return chosen


def mine(corpus: Corpus, tokens: Tokens, bag: Bag, count: int, seed: int, progress: Progress) -> np.ndarray:
    """int32 (pairs, count) negatives of each pair, half from BM25 and half from the bag."""
    lexical = lexical_candidates(tokens, tokens.queries, progress)
    vectors = vector_candidates(bag_vectors(bag, tokens.queries), bag_vectors(bag, tokens.texts), progress)
    return choose_negatives(corpus, [lexical, vectors], count, seed)
