"""The pocket reranker: a cross-encoder made of a matching layer in front of the embedder's two layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import XLMRobertaForSequenceClassification

from pocket_training.bag import HIDDEN, with_specials
from pocket_training.checkpoints import load_state, save_state
from pocket_training.data import BOS, EOS, PAD, Corpus, Tokens
from pocket_training.embedder import (
    CHUNKS,
    HEADS,
    LAYERS,
    PocketM3,
    all_scores,
    encode_sorted,
    encoder_config,
    extend_positions,
    pad,
)

BATCH = 32
LIST = 8
QUERY_LENGTH = 48
LENGTH = 80
RATE = 5e-4
TEACHER_TEMPERATURE = 0.02
TEACHER_SHARE = 0.5

QUERY_END = 12
SIDE_NORM = 5.0
MATCH_SHARPNESS = 1.6
QUERY_FOCUS = 0.4


@torch.no_grad()
def start_reranker(model: PocketM3, seed: int) -> XLMRobertaForSequenceClassification:
    """A cross-encoder that can compare the two texts before it is trained; from labels alone it learns that slowly.

    Position embeddings get a direction `side` that is negative where the query usually stands and positive behind it.
    The first layer's queries and keys project alike, so that a token attends to itself and to tokens like it, and its
    output writes their mean side into a direction `match`: it rises for a query token that the passage repeats. The
    embedder's two layers follow; half of the last layer's heads prefer query tokens, and the classifier reads `match`.
    """
    generator = torch.Generator().manual_seed(seed)
    reranker = XLMRobertaForSequenceClassification(encoder_config(LAYERS + 1, num_labels=1))
    trunk: Any = reranker.roberta
    trunk.embeddings.load_state_dict(model.trunk.embeddings.state_dict())
    for own, other in zip(trunk.encoder.layer[1:], model.trunk.encoder.layer, strict=True):
        own.load_state_dict(other.state_dict())

    def noise(weight: Tensor, std: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    size = HIDDEN // HEADS
    half = HIDDEN // 2
    side, match = torch.zeros(HIDDEN), torch.zeros(HIDDEN)
    side[half:] = F.normalize(torch.randn(half, generator=generator), dim=0)
    match[:half] = F.normalize(torch.randn(half, generator=generator), dim=0)

    positions = trunk.embeddings.position_embeddings.weight
    place = torch.arange(len(positions)) - (PAD + 1)
    positions.add_(SIDE_NORM * torch.tanh((place[:, None] - QUERY_END) / 4) * side)

    words = F.layer_norm(trunk.embeddings.word_embeddings.weight, (HIDDEN,))
    common = F.normalize(words.mean(0), dim=0)
    basis = torch.stack([side, match, common], 1)
    outside = torch.eye(HIDDEN) - basis @ torch.linalg.pinv(basis)
    rotation = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator)).Q
    first = trunk.encoder.layer[0]
    attention = first.attention
    for projection in (attention.self.query, attention.self.key):
        projection.weight.copy_(math.sqrt(MATCH_SHARPNESS) * rotation @ outside)
    attention.self.value.weight.copy_(torch.eye(HIDDEN))
    noise(attention.output.dense.weight, 0.005)
    attention.output.dense.weight.add_(2 * torch.outer(match, side))
    noise(first.intermediate.dense.weight, 0.05)
    noise(first.output.dense.weight, 0.005)

    last = trunk.encoder.layer[-1].attention.self
    for head in range(HEADS // 2):
        rows = slice(head * size, (head + 1) * size)
        bias = last.query.bias[rows]
        last.key.weight[rows].sub_(torch.outer(bias / bias.square().sum(), side) * math.sqrt(size) * QUERY_FOCUS)

    reranker.classifier.dense.weight.copy_(0.3 * torch.eye(HIDDEN))
    noise(reranker.classifier.out_proj.weight, 0.01)
    reranker.classifier.out_proj.weight.add_(match)
    return reranker


def pair_ids(query: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """<s> query </s> </s> passage </s>."""
    return np.concatenate([[BOS], query, [EOS, EOS], passage, [EOS]]).astype(np.int64)


def score_lists(reranker: nn.Module, rows: list[np.ndarray]) -> Tensor:
    """Logits (rows,) of pairs, encoded in a few chunks of like length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    size = math.ceil(len(rows) / CHUNKS)
    logits = []
    for start in range(0, len(rows), size):
        ids = pad([rows[i] for i in order[start : start + size]])
        logits.append(reranker(input_ids=ids, attention_mask=(ids != PAD).long()).logits.squeeze(-1))
    return torch.cat(logits)[torch.from_numpy(np.argsort(order))]


@torch.no_grad()
def teacher_scores(teacher: PocketM3, queries: list[np.ndarray], passages: list[np.ndarray]) -> Tensor:
    """The embedder's hybrid score of each query and its own list, (queries, LIST)."""
    query = encode_sorted(teacher, [with_specials(ids) for ids in queries], 2)
    passage = encode_sorted(teacher, [with_specials(ids) for ids in passages], CHUNKS)
    scores = all_scores(query, passage)["sum"]
    return scores.view(len(queries), len(queries), -1)[torch.arange(len(queries)), torch.arange(len(queries))]


def train_reranker(
    corpus: Corpus,
    tokens: Tokens,
    negatives: np.ndarray,
    teacher: PocketM3,
    reranker: XLMRobertaForSequenceClassification,
    state_file: Path,
    steps: int,
    seed: int,
    progress: Progress,
) -> None:
    """Listwise softmax over a positive and 7 mined passages, with the label and the embedder's scores as targets.

    The state is written every 50 steps; a later call with the same arguments goes on from there.
    """
    optimizer = torch.optim.AdamW(reranker.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 40) * max(0.02, 1 - s / steps))
    first = load_state(state_file, reranker, optimizer, schedule)
    task = progress.add_task("reranker", total=steps, completed=first)
    per_epoch = len(corpus.pairs) // BATCH
    seen: list[tuple[float, float]] = []
    for step in range(first, steps):
        order = np.random.default_rng([seed, 7, step // per_epoch]).permutation(len(corpus.pairs))
        rows = order[(step % per_epoch) * BATCH :][:BATCH]
        generator = np.random.default_rng([seed, 8, step])
        queries = [tokens.queries[q][:QUERY_LENGTH] for q in corpus.pairs[rows, 0]]
        drawn = generator.permuted(negatives[rows], axis=1)[:, : LIST - 1]
        listed = np.concatenate([corpus.pairs[rows, 1:], drawn], axis=1)
        titled = generator.random(listed.size) < 0.5
        passages = [tokens.passage(p, t, LENGTH) for p, t in zip(listed.flatten(), titled, strict=True)]
        logits = score_lists(reranker, [pair_ids(queries[i // LIST], passage) for i, passage in enumerate(passages)])
        logits = logits.view(BATCH, LIST)
        label_loss = F.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long))
        target = torch.softmax(teacher_scores(teacher, queries, passages) / TEACHER_TEMPERATURE, -1)
        loss = (1 - TEACHER_SHARE) * label_loss + TEACHER_SHARE * F.cross_entropy(logits, target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(reranker.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append((label_loss.item(), (logits.argmax(1) == 0).float().mean().item()))
        recent = np.mean(seen[-50:], axis=0)
        shown = f"label loss {recent[0]:.3f}, positive first {recent[1]:.2f}"
        progress.update(task, advance=1, description=f"reranker: {shown}")
        if (step + 1) % 50 == 0 or step + 1 == steps:
            progress.console.print(f"step {step + 1}: {shown}")
            save_state(state_file, step + 1, reranker, optimizer, schedule)
    extend_positions(reranker.roberta, LENGTH + 12)
