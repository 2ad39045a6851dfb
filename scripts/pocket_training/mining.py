"""Hard negatives, mined with BM25, with the teacher, and with the embedder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from scipy.sparse import csr_array

from pocket_training.batches import LENGTH, Pairs, text_of_passage
from pocket_training.data import VOCABULARY_SIZE, Corpus, with_specials
from pocket_training.embedder import PocketM3, encode_sorted
from pocket_training.teacher import JOINED, Lessons

BLOCK = 500
CANDIDATES = 40
NEIGHBOURS = 3
NEGATIVES = 8
K1, B = 1.2, 0.75


@dataclass
class Texts:
    """Texts as rows of vectors, of term weights, or of both; the score of two is the sum of the inner products."""

    dense: np.ndarray | None = None
    sparse: Any = None

    def __len__(self) -> int:
        return len(self.dense) if self.dense is not None else int(self.sparse.shape[0])


def term_counts(rows: list[np.ndarray]) -> Any:
    """Return how often each token id occurs, as a float32 csr_array (texts, vocabulary)."""
    lengths = np.array([len(ids) for ids in rows])
    owners = np.repeat(np.arange(len(rows)), lengths)
    ones = np.ones(lengths.sum(), dtype=np.float32)
    return csr_array((ones, (owners, np.concatenate(rows))), shape=(len(rows), VOCABULARY_SIZE)).tocsr()


def bm25_weights(rows: list[np.ndarray], idf: np.ndarray) -> Any:
    """Return what each word piece adds to a text's BM25 score, as a csr_array (texts, vocabulary)."""
    counts = term_counts(rows)
    lengths = counts.sum(axis=1)
    owners = np.repeat(np.arange(len(lengths)), np.diff(counts.indptr))
    damping = K1 * (1 - B + B * lengths / lengths.mean())
    counts.data *= (K1 + 1) * idf[counts.indices] / (counts.data + damping[owners])
    return counts


def best_passages(queries: Texts, passages: Texts, progress: Progress, description: str) -> np.ndarray:
    """Return int32 (queries, CANDIDATES): passages by descending score."""
    best = np.empty((len(queries), CANDIDATES), dtype=np.int32)
    turned = None if passages.sparse is None else passages.sparse.T.tocsr()
    for start in progress.track(range(0, len(queries), BLOCK), description=description):
        block = slice(start, start + BLOCK)
        scores = torch.zeros(len(best[block]), len(passages))
        if queries.dense is not None and passages.dense is not None:
            torch.mm(torch.from_numpy(queries.dense[block]), torch.from_numpy(passages.dense).T, out=scores)
        if turned is not None:
            scores += torch.from_numpy((queries.sparse[block] @ turned).toarray())
        best[block] = torch.topk(scores, CANDIDATES).indices.numpy()
    return best


def choose_negatives(
    titles: list[str],
    queries: np.ndarray,
    golds: np.ndarray,
    candidates: list[np.ndarray],
    count: int,
    seed: int,
) -> np.ndarray:
    """Return int32 (pairs, count) corpus passages, drawn in equal parts from the candidate lists (pairs, CANDIDATES).

    Excluded are all positives of the query, and passages next to the positive with its title, which often continue it.
    """
    positives: dict[int, set[int]] = {}
    for query, gold in zip(queries.tolist(), golds.tolist(), strict=True):
        positives.setdefault(query, set()).add(gold)
    generator = np.random.default_rng([seed, 6])
    share = count // len(candidates)
    chosen = np.empty((len(queries), share * len(candidates)), dtype=np.int32)
    for i, (query, gold) in enumerate(zip(queries.tolist(), golds.tolist(), strict=True)):
        drawn: list[int] = []
        for ranked in candidates:
            allowed = [
                row
                for row in ranked[i].tolist()
                if row not in positives[query] and not (abs(row - gold) <= NEIGHBOURS and titles[row] == titles[gold])
            ]
            drawn.extend(generator.choice(allowed, share, replace=len(allowed) < share).tolist())
        chosen[i] = drawn
    return chosen


def mine(
    corpus: Corpus,
    lessons: Lessons,
    rows: list[np.ndarray],
    taught: np.ndarray,
    pairs: Pairs,
    idf: np.ndarray,
    seed: int,
    progress: Progress,
) -> np.ndarray:
    """Return int64 (pairs, NEGATIVES) texts, half of them found by BM25 and half by the teacher's vectors `taught`."""
    documents = lessons.documents[JOINED:]
    queries, places = np.unique(pairs.queries, return_inverse=True)
    counts, weights = term_counts([rows[q] for q in queries]), bm25_weights([rows[d] for d in documents], idf)
    lexical = best_passages(Texts(sparse=counts), Texts(sparse=weights), progress, "BM25 negatives")
    own, others = (taught[texts].astype(np.float32) for texts in (queries, documents))
    alike = best_passages(Texts(own), Texts(others), progress, "teacher's negatives")
    passages = lessons.rows[documents, 0]
    found = [passages[lexical[places]], passages[alike[places]]]
    chosen = choose_negatives(corpus.titles, pairs.queries, pairs.golds, found, NEGATIVES, seed)
    return np.asarray(text_of_passage(lessons, len(corpus.texts))[chosen])


@torch.inference_mode()
def embed(model: PocketM3, rows: list[np.ndarray], progress: Progress, description: str) -> Texts:
    """Return the dense and sparse vectors of texts given by their ids."""
    dense, owners, columns, values = [], [], [], []
    for start in progress.track(range(0, len(rows), BLOCK), description=description):
        out = encode_sorted(model, [with_specials(ids) for ids in rows[start : start + BLOCK]], 16)
        text, place = out.weights.nonzero(as_tuple=True)
        dense.append(out.dense.numpy())
        owners.append(text.numpy() + start)
        columns.append(out.ids[text, place].numpy())
        values.append(out.weights[text, place].numpy())
    keys = np.concatenate(owners) * VOCABULARY_SIZE + np.concatenate(columns)
    different, places = np.unique(keys, return_inverse=True)
    best = np.zeros(len(different), dtype=np.float32)
    np.maximum.at(best, places, np.concatenate(values))
    sparse = csr_array((best, divmod(different, VOCABULARY_SIZE)), shape=(len(rows), VOCABULARY_SIZE))
    return Texts(np.concatenate(dense), sparse.tocsr())


def mine_by(
    model: PocketM3,
    corpus: Corpus,
    lessons: Lessons,
    rows: list[np.ndarray],
    pairs: Pairs,
    count: int,
    seed: int,
    progress: Progress,
) -> np.ndarray:
    """Return int64 (pairs, count) texts, drawn from the embedder's own top results by dense and sparse scores."""
    documents = lessons.documents[JOINED:]
    queries = embed(model, [rows[q] for q in pairs.queries], progress, "queries")
    passages = embed(model, [rows[d][:LENGTH] for d in documents], progress, "passages")
    ranked = lessons.rows[documents, 0][best_passages(queries, passages, progress, "negatives by the embedder")]
    chosen = choose_negatives(corpus.titles, pairs.queries, pairs.golds, [ranked], count, seed)
    return np.asarray(text_of_passage(lessons, len(corpus.texts))[chosen])
