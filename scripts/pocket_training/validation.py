"""Metrics on the held-out pairs, the only data to make choices by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from pocket_training.batches import LENGTH, QUERY_LENGTH
from pocket_training.data import Corpus, Tokens, with_specials
from pocket_training.embedder import PocketM3, all_scores, encode_sorted
from pocket_training.reranker import score_pairs
from pocket_training.reranker_start import pair_ids

POOL = 10_000
BLOCK = 256
CUT = 10
DEPTH = 20
FACTORS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)


@dataclass
class Validation:
    """Held-out queries, a pool of passages, and relevance, bool (queries, passages)."""

    queries: np.ndarray
    passages: np.ndarray
    relevant: np.ndarray


def validation_set(corpus: Corpus, seed: int) -> Validation:
    """Return all passages of the held-out titles, which include the hard ones, and random others of the corpus."""
    queries = np.unique(corpus.held_out[:, 0])
    own = np.concatenate([np.arange(*corpus.sections[row]) for row in np.unique(corpus.held_out[:, 1])])
    others = np.random.default_rng([seed, 9]).choice(len(corpus.texts), POOL, replace=False)
    passages = np.unique(np.concatenate([own, others]))
    relevant = np.zeros((len(queries), len(passages)), dtype=bool)
    places = np.searchsorted(queries, corpus.held_out[:, 0]), np.searchsorted(passages, corpus.held_out[:, 1])
    relevant[places] = True
    return Validation(queries, passages, relevant)


@torch.inference_mode()
def score_all(model: PocketM3, tokens: Tokens, check: Validation, progress: Progress) -> dict[str, np.ndarray]:
    """Return float32 (queries, passages) scores by representation, and their mean as "sum"."""
    query = encode_sorted(model, [with_specials(tokens.queries[q][:QUERY_LENGTH]) for q in check.queries], 16)
    columns = []
    for start in progress.track(range(0, len(check.passages), BLOCK), description="scoring"):
        rows = [with_specials(tokens.texts[p][:LENGTH]) for p in check.passages[start : start + BLOCK]]
        columns.append(all_scores(query, encode_sorted(model, rows, 8)))
    return {name: torch.cat([column[name] for column in columns], 1).numpy() for name in columns[0]}


@torch.no_grad()
def balance(
    model: PocketM3, scores: dict[str, np.ndarray], check: Validation, progress: Progress
) -> dict[str, np.ndarray]:
    """Scale the model's sparse weights so that the unweighted mean of the scores is best; return the new scores."""
    parts = [scores["dense"], scores["multi_vector"]]
    found = {
        factor: ndcg(sum(parts, factor * scores["sparse"]), check.relevant).mean()
        for factor in progress.track(FACTORS, description="scale of the sparse weights")
    }
    best = max(found, key=lambda factor: found[factor])
    progress.console.print(f"scale of the sparse scores: {best}; held-out nDCG@10 by scale: {found}")
    for parameter in model.sparse_linear.parameters():
        parameter.mul_(best**0.5)
    sparse = best * scores["sparse"]
    return {"dense": scores["dense"], "sparse": sparse, "multi_vector": parts[1], "sum": sum(parts, sparse) / 3}


def ndcg(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the nDCG@10 of each query, from scores and bool relevance (queries, passages)."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :CUT]
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    gains = np.take_along_axis(relevant, order, 1) @ discounts[: order.shape[1]]
    ideal = np.cumsum(discounts)[np.minimum(relevant.sum(1), CUT) - 1]
    return np.asarray(gains / ideal)


@torch.inference_mode()
def rerank(
    reranker: nn.Module, tokens: Tokens, check: Validation, scores: np.ndarray, progress: Progress
) -> np.ndarray:
    """Return float32 (queries, passages): logits of the top DEPTH passages by `scores`; the others are -inf."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    again = np.full(scores.shape, -np.inf, dtype=np.float32)
    for row in progress.track(range(len(top)), description="reranking"):
        query = tokens.queries[check.queries[row]][:QUERY_LENGTH]
        pairs = [pair_ids(query, tokens.texts[p][:LENGTH]) for p in check.passages[top[row]]]
        again[row, top[row]] = score_pairs(reranker, pairs, 2).numpy()
    return again
