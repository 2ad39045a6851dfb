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

from pocket_training.batches import passage_texts
from pocket_training.data import PAD, Corpus, Tokens, with_specials
from pocket_training.embedder import PocketM3, encode_sorted, pad
from pocket_training.loop import Schedule, train
from pocket_training.reranker_start import QUERY_LENGTH, pair_ids, token_types

BATCH = 32
LIST = 8
CHUNKS = 6
LONG_SHARE = 0.15
RATE = 3e-4
SCHEDULE = Schedule(steps=1300, horizon=1310, cool_down=1)
#: Number of pairs to mine lists for.
PAIRS = 38_400
TEACHER_TEMPERATURE = 0.05
TEACHER_SHARE = 0.5


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
def teacher_scores(teacher: PocketM3, queries: list[np.ndarray], passages: list[np.ndarray]) -> Tensor:
    """Return the embedder's hybrid scores of each query and its own passages, (queries, passages / queries).

    For speed, a word piece that a query repeats counts each time in the sparse score.
    """
    query = encode_sorted(teacher, [with_specials(ids) for ids in queries], 2)
    passage = encode_sorted(teacher, [with_specials(ids) for ids in passages], CHUNKS)
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
    corpus: Corpus,
    tokens: Tokens,
    pairs: np.ndarray,
    negatives: np.ndarray,
    teacher: PocketM3,
    reranker: XLMRobertaForSequenceClassification,
    state_file: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Train with a listwise softmax over a positive and 7 mined passages, on the label and the embedder's hybrid score.

    `negatives` (n, k) were mined for `pairs` (n, 2) by the embedder itself. If it ranks the positive below all of them,
    it would hardly have retrieved the positive. Such a list trains on the embedder's scores alone, because its label
    would only teach that everything the embedder retrieves is wrong.
    """
    per_epoch = len(pairs) // BATCH

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        order = np.random.default_rng([seed, 7, step // per_epoch]).permutation(len(pairs))
        rows = order[(step % per_epoch) * BATCH :][:BATCH]
        generator = np.random.default_rng([seed, 8, step])
        queries = [tokens.queries[q][:QUERY_LENGTH] for q in pairs[rows, 0]]
        drawn = generator.permuted(negatives[rows], axis=1)[:, : LIST - 1]
        listed = np.concatenate([pairs[rows, 1:], drawn], axis=1).flatten()
        passages, _, _ = passage_texts(listed, corpus, tokens, generator, LONG_SHARE)
        paired = [pair_ids(queries[i // LIST], passage) for i, passage in enumerate(passages)]
        logits = score_pairs(reranker, paired).view(BATCH, LIST)
        taught = teacher_scores(teacher, queries, passages)
        retrieved = (taught[:, 1:] < taught[:, :1]).any(1)
        label_loss = F.cross_entropy(logits[retrieved], torch.zeros(int(retrieved.sum()), dtype=torch.long))
        target = torch.softmax(taught / TEACHER_TEMPERATURE, -1)
        teacher_loss = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
        loss = (1 - TEACHER_SHARE) * label_loss + TEACHER_SHARE * teacher_loss
        return loss, {
            "label loss": label_loss.item(),
            "teacher loss": teacher_loss.item(),
            "positive first": (logits.argmax(1) == 0).float().mean().item(),
            "hybrid": (taught.argmax(1) == 0).float().mean().item(),
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
