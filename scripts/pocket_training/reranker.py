"""The pocket reranker: a cross-encoder that is initialized as the embedder's late interaction, and then trained."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import XLMRobertaForSequenceClassification

from pocket_training.batches import LONG, Pairs
from pocket_training.data import PAD, with_specials
from pocket_training.embedder import PocketM3, encode_sorted, pad
from pocket_training.loop import Schedule, train
from pocket_training.reranker_start import QUERY_LENGTH, pair_ids, token_types

BATCH = 10
LIST = 24
CHUNKS = 6
RATE = 3e-4
SCHEDULE = Schedule(steps=500, horizon=510, cool_down=1)
ENSEMBLE_TEMPERATURE = 0.05
#: The share of the teacher in the ensemble; the rest is the embedder's hybrid score.
TEACHER_SHARE = 0.5
#: The share of the ensemble in the loss; the rest are the labels.
ENSEMBLE_SHARE = 0.7


def score_pairs(reranker: nn.Module, rows: list[np.ndarray], chunks: int = CHUNKS) -> Tensor:
    """Return the logits (rows,) of pairs, encoded in a few chunks of similar length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    size = math.ceil(len(rows) / chunks)
    logits = []
    for start in range(0, len(rows), size):
        ids = pad([rows[i] for i in order[start : start + size]])
        types = token_types(ids)
        logits.append(reranker(input_ids=ids, attention_mask=(ids != PAD).long(), token_type_ids=types).logits[:, 0])
    return torch.cat(logits)[torch.from_numpy(np.argsort(order))]


@torch.no_grad()
def hybrid_scores(model: PocketM3, queries: list[np.ndarray], passages: list[np.ndarray]) -> Tensor:
    """Return the embedder's hybrid scores of each query and its own passages, (queries, passages / queries).

    For speed, a word piece that a query repeats counts each time in the sparse score.
    """
    query = encode_sorted(model, [with_specials(ids) for ids in queries], 2)
    passage = encode_sorted(model, [with_specials(ids) for ids in passages], CHUNKS)
    own = (len(queries), len(passages) // len(queries))
    dense = (query.dense[:, None] * passage.dense.view(*own, -1)).sum(-1)
    vectors = passage.multi_vector.view(*own, *passage.multi_vector.shape[1:])
    best = torch.einsum("nqd,nlpd->nlqp", query.multi_vector, vectors).amax(-1)
    real = query.ids[:, 1:] != PAD
    multi_vector = (best * real[:, None]).sum(-1) / real.sum(1)[:, None]
    same = query.ids[:, None, :, None] == passage.ids.view(*own, 1, -1)
    weights = (same * passage.weights.view(*own, 1, -1)).amax(-1)
    sparse = (weights * query.weights[:, None]).sum(-1)
    return (dense + multi_vector + sparse) / 3


def train_reranker(
    rows: list[np.ndarray],
    taught: np.ndarray,
    pairs: Pairs,
    negatives: np.ndarray,
    model: PocketM3,
    reranker: XLMRobertaForSequenceClassification,
    state_file: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Train with a listwise softmax over a positive and 23 mined texts, on the labels and an ensemble's scores.

    The ensemble consists of the teacher's cosines and the embedder's hybrid scores, which contain BM25's knowledge.
    `negatives` (n, k) were mined for the pairs (n,) by the embedder itself. If it ranks the positive below all of them,
    it would hardly have retrieved the positive. Such a list trains on the ensemble alone, because its label would only
    teach that everything the embedder retrieves is wrong.
    """
    per_epoch = len(pairs) // BATCH

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        order = np.random.default_rng([seed, 7, step // per_epoch]).permutation(len(pairs))
        chosen = order[(step % per_epoch) * BATCH :][:BATCH]
        generator = np.random.default_rng([seed, 8, step])
        drawn = generator.permuted(negatives[chosen], axis=1)[:, : LIST - 1]
        listed = np.concatenate([pairs.texts[chosen, None], drawn], axis=1)
        queries = [rows[i][:QUERY_LENGTH] for i in pairs.queries[chosen]]
        passages = [rows[i][:LONG] for i in listed.flatten()]
        paired = [pair_ids(queries[i // LIST], passage) for i, passage in enumerate(passages)]
        logits = score_pairs(reranker, paired).view(BATCH, LIST)
        hybrid = hybrid_scores(model, queries, passages)
        asked, read = (torch.from_numpy(taught[texts]).float() for texts in (pairs.queries[chosen], listed))
        ensemble = (1 - TEACHER_SHARE) * hybrid + TEACHER_SHARE * torch.einsum("nd,nld->nl", asked, read)
        retrieved = (hybrid[:, 1:] < hybrid[:, :1]).any(1)
        label_loss = F.cross_entropy(logits[retrieved], torch.zeros(int(retrieved.sum()), dtype=torch.long))
        target = torch.softmax(ensemble / ENSEMBLE_TEMPERATURE, -1)
        ensemble_loss = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
        loss = (1 - ENSEMBLE_SHARE) * label_loss + ENSEMBLE_SHARE * ensemble_loss
        return loss, {
            "label loss": label_loss.item(),
            "ensemble loss": ensemble_loss.item(),
            "positive first": (logits.argmax(1) == 0).float().mean().item(),
            "by hybrid": (hybrid.argmax(1) == 0).float().mean().item(),
            "by ensemble": (ensemble.argmax(1) == 0).float().mean().item(),
        }

    train(
        "reranker",
        reranker,
        [{"params": list(reranker.parameters()), "lr": RATE}],
        SCHEDULE,
        loss_of,
        state_file,
        progress,
    )
