"""The pocket reranker: a cross-encoder that begins as the embedder's own late interaction, and learns from there."""

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

from pocket_training.bag import HIDDEN
from pocket_training.batches import LENGTH, passage_texts
from pocket_training.data import BOS, EOS, PAD, Corpus, Tokens, with_specials
from pocket_training.embedder import HEADS, LAYERS, PocketM3, all_scores, encode_sorted, encoder_config, pad
from pocket_training.loop import Schedule, train

BATCH = 32
LIST = 8
CHUNKS = 6
QUERY_LENGTH = 48
RATE = 2.5e-4
SCHEDULE = Schedule(steps=520, horizon=1200, cool_down=180)
#: For so many pairs lists are mined.
PAIRS = 38_400
TEACHER_TEMPERATURE = 0.02
TEACHER_SHARE = 0.3

HEAD = HIDDEN // HEADS
#: How far the token type moves a token's vector, of norm √192.
SIDE = 4.0
#: What a key of the other text loses in the first layers' attention, in nats.
APART = 12.0
#: What a key of the passage gains in the matching layer, and the sharpness of each head there, in nats.
FAVOUR = 5.0
SHARPNESS = (10.0, 14.0, 8.0)
#: How much more the last layer's <s> looks at a token of sparse weight 1 than at one of 0, in nats.
FOCUS = 9.0


class _Directions:
    """Unit vectors of the hidden space that carry what the embedder doesn't know; each layer norm bends them.

    side: which text a token is of. special: <s> and </s>. match: how well the passage has a query token. pooled: that
    over the query.
    """

    def __init__(self, generator: torch.Generator) -> None:
        spread = torch.randn(HIDDEN, 4, generator=generator)
        self.side, self.special, self.match, self.pooled = torch.linalg.qr(spread - spread.mean(0)).Q.T

    def after(self, norm: nn.LayerNorm) -> None:
        for name, direction in vars(self).items():
            setattr(self, name, F.normalize(norm.weight * direction, dim=0))

    def outside(self) -> Tensor:
        """The projection (hidden, hidden) that takes them away."""
        together = torch.stack(list(vars(self).values()), 1)
        inverse: Tensor = torch.linalg.pinv(together)
        return torch.eye(HIDDEN) - together @ inverse


def _attend(layer: Any, head: int, query: Tensor, key: Tensor, query_bias: Tensor) -> None:
    """Set a head's projections: query and key (<= 64, hidden), query_bias (<= 64,); scores are not scaled by √64."""
    rows = slice(head * HEAD, head * HEAD + len(query))
    scale = HEAD**0.25
    for linear in (layer.attention.self.query, layer.attention.self.key):
        linear.weight[head * HEAD : (head + 1) * HEAD].zero_()
        linear.bias[head * HEAD : (head + 1) * HEAD].zero_()
    layer.attention.self.query.weight[rows].copy_(scale * query)
    layer.attention.self.query.bias[rows].copy_(scale * query_bias)
    layer.attention.self.key.weight[rows].copy_(scale * key)


def _keep_apart(layer: Any, directions: _Directions) -> None:
    """Let each token see its own text only: of each head the faintest direction gives way to the side."""
    outside = directions.outside()
    attention = layer.attention.self
    for head in range(HEADS):
        rows = slice(head * HEAD, (head + 1) * HEAD)
        query = torch.cat([attention.query.weight[rows] @ outside, attention.query.bias[rows, None]], 1)
        key = attention.key.weight[rows] @ outside
        left, strengths, right = torch.linalg.svd(query.T @ key / math.sqrt(HEAD), full_matrices=False)
        root = strengths[: HEAD - 1].sqrt()
        new_query, new_key = (left[:, : HEAD - 1] * root).T, root[:, None] * right[: HEAD - 1]
        apart = math.sqrt(APART / 2) / SIDE * directions.side[None]
        bias = torch.cat([new_query[:, -1], torch.zeros(1)])
        _attend(layer, head, torch.cat([new_query[:, :-1], apart]), torch.cat([new_key, apart]), bias)
    attention.value.weight.copy_(attention.value.weight @ outside)
    layer.attention.output.dense.weight.copy_(outside @ layer.attention.output.dense.weight)
    layer.attention.output.dense.bias.copy_(outside @ layer.attention.output.dense.bias)
    directions.after(layer.attention.output.LayerNorm)
    outside = directions.outside()
    layer.intermediate.dense.weight.copy_(layer.intermediate.dense.weight @ outside)
    layer.output.dense.weight.copy_(outside @ layer.output.dense.weight)
    layer.output.dense.bias.copy_(outside @ layer.output.dense.bias)
    directions.after(layer.output.LayerNorm)


def _reach(trunk: Any, direction: Tensor, ids: Tensor) -> Tensor:
    """How far the passages' tokens lie along a direction behind the embedder's layers, on average."""
    mask, types = (ids != PAD).long(), torch.ones_like(ids)
    output = trunk(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
    hidden: Tensor = output.hidden_states[LAYERS]
    return (hidden[ids != PAD] @ direction).mean()


@torch.no_grad()
def start_reranker(model: PocketM3, tokens: Tokens, seed: int) -> XLMRobertaForSequenceClassification:
    """A cross-encoder that ranks before it is trained; from labels alone so small a one learns that slowly.

    The token type moves a vector along `side`. The embedder's layers follow, in which each text sees only itself. In
    the third layer a token attends to its like: to itself, and, favoured, to the passage's tokens, by the embedder's
    multi-vectors. The mean side of what it sees, written along `match`, tells a query token how well the passage
    has it. In the last layer <s> takes the mean of that over the query, mostly of tokens of high sparse weight.
    """
    generator = torch.Generator().manual_seed(seed)
    reranker = XLMRobertaForSequenceClassification(encoder_config(LAYERS + 2, num_labels=1, type_vocab_size=2))
    trunk: Any = reranker.roberta
    for parameter in reranker.parameters():
        if parameter.dim() == 2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
    directions = _Directions(generator)
    embedder: Any = model.trunk
    types = embedder.embeddings.token_type_embeddings.weight
    for part in ("word_embeddings", "position_embeddings", "LayerNorm"):
        getattr(trunk.embeddings, part).load_state_dict(getattr(embedder.embeddings, part).state_dict())
    for part in ("word_embeddings", "position_embeddings"):
        rows = getattr(trunk.embeddings, part).weight
        rows.copy_(rows @ directions.outside())
    trunk.embeddings.token_type_embeddings.weight.copy_(types + SIDE * torch.tensor([[-1.0], [1.0]]) * directions.side)
    trunk.embeddings.word_embeddings.weight[[BOS, EOS]] += SIDE * directions.special
    directions.after(trunk.embeddings.LayerNorm)
    for own, other in zip(trunk.encoder.layer, embedder.encoder.layer, strict=False):
        own.load_state_dict(other.state_dict())
        _keep_apart(own, directions)

    match, last = trunk.encoder.layer[LAYERS:]
    outside = directions.outside()
    turned, strengths, main = torch.linalg.svd(model.colbert_linear.weight @ outside, full_matrices=False)
    vectors, centre = strengths[: HEAD - 1, None] * main[: HEAD - 1], turned.T[: HEAD - 1] @ model.colbert_linear.bias
    sample_ids = pad([with_specials(ids[:LENGTH]) for ids in tokens.texts[:: len(tokens.texts) // 200]])
    sample = model.hidden(sample_ids)
    side = _reach(trunk, directions.side, sample_ids)
    norm = (sample.flatten(0, 1) @ vectors.T + centre).square().sum(-1).mean()
    for head, sharpness in enumerate(SHARPNESS):
        scale = (sharpness / norm).sqrt()
        query = torch.cat([scale * vectors, torch.zeros(1, HIDDEN)])
        place = FAVOUR / (2 * side) * directions.side - APART / side * directions.special
        key = torch.cat([scale * vectors, place[None]])
        _attend(match, head, query, key, torch.cat([scale * centre, torch.ones(1)]))
        match.attention.self.value.weight[head * HEAD].copy_(directions.side / side)
        match.attention.output.dense.weight[:, head * HEAD].add_(2 * directions.match)
    directions.after(match.attention.output.LayerNorm)
    directions.after(match.output.LayerNorm)

    outside = directions.outside()
    weight = model.sparse_linear.weight[0] * FOCUS
    for head in range(HEADS):
        key = (weight @ outside - APART / side * (directions.side / 2 + directions.special))[None]
        _attend(last, head, torch.zeros(1, HIDDEN), key, torch.ones(1))
        last.attention.self.value.weight[head * HEAD].copy_(directions.match)
        last.attention.output.dense.weight[:, head * HEAD].add_(directions.pooled)
    directions.after(last.attention.output.LayerNorm)
    directions.after(last.output.LayerNorm)
    reranker.classifier.dense.weight[0].copy_(directions.pooled / 8)
    reranker.classifier.out_proj.weight[0, 0] = 8.0
    return reranker


def pair_ids(query: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """<s> query </s> <s> passage </s>."""
    return np.concatenate([[BOS], query, [EOS, BOS], passage, [EOS]]).astype(np.int64)


def score_pairs(reranker: nn.Module, rows: list[np.ndarray], chunks: int = CHUNKS) -> Tensor:
    """Logits (rows,) of pairs, encoded in a few chunks of like length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    size = math.ceil(len(rows) / chunks)
    logits = []
    for start in range(0, len(rows), size):
        ids = pad([rows[i] for i in order[start : start + size]])
        types = ((ids == BOS).cumsum(1) - 1) * (ids != PAD)
        logits.append(reranker(input_ids=ids, attention_mask=(ids != PAD).long(), token_type_ids=types).logits[:, 0])
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
    pairs: np.ndarray,
    negatives: np.ndarray,
    teacher: PocketM3,
    reranker: XLMRobertaForSequenceClassification,
    state_file: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Listwise softmax over a positive and 7 mined passages, with the label and the embedder's hybrid score as targets.

    `pairs` (n, 2) are those that `negatives` (n, k) were mined for, by the embedder itself.
    """
    per_epoch = len(pairs) // BATCH

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        order = np.random.default_rng([seed, 7, step // per_epoch]).permutation(len(pairs))
        rows = order[(step % per_epoch) * BATCH :][:BATCH]
        generator = np.random.default_rng([seed, 8, step])
        queries = [tokens.queries[q][:QUERY_LENGTH] for q in pairs[rows, 0]]
        drawn = generator.permuted(negatives[rows], axis=1)[:, : LIST - 1]
        listed = np.concatenate([pairs[rows, 1:], drawn], axis=1).flatten()
        passages, _, _ = passage_texts(listed, corpus, tokens, generator)
        paired = [pair_ids(queries[i // LIST], passage) for i, passage in enumerate(passages)]
        logits = score_pairs(reranker, paired).view(BATCH, LIST)
        label_loss = F.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long))
        target = torch.softmax(teacher_scores(teacher, queries, passages) / TEACHER_TEMPERATURE, -1)
        loss = (1 - TEACHER_SHARE) * label_loss + TEACHER_SHARE * F.cross_entropy(logits, target)
        found = (logits.argmax(1) == 0).float().mean().item()
        taught = (target.argmax(1) == 0).float().mean().item()
        return loss, {"label loss": label_loss.item(), "positive first": found, "hybrid": taught}

    train(
        "reranker",
        reranker,
        [{"params": list(reranker.parameters()), "lr": RATE}],
        SCHEDULE,
        loss_of,
        state_file,
        progress,
    )
