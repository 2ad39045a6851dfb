"""The pocket embedder: a one-layer XLM-RoBERTa encoder with BGE-M3's three representations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import XLMRobertaConfig, XLMRobertaModel

from pocket_training.bag import HIDDEN, Bag, contrast
from pocket_training.batches import LENGTH, LONG, Pairs, make_batch
from pocket_training.data import (
    BOS,
    EOS,
    MAX_LENGTH,
    PAD,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    with_specials,
)
from pocket_training.loop import Schedule, train
from pocket_training.teacher import Lessons

LAYERS = 1
HEADS = 4
INTERMEDIATE = 256
MULTI_VECTOR = 64
BATCH = 64
CHUNKS = 6
TEMPERATURES = {"dense": 0.05, "sparse": 0.05, "multi_vector": 0.03, "sum": 0.02}
#: The teacher's share of the ensemble that teaches; the rest is the mean of the three scores.
TEACHER_SHARE = 0.5
ENSEMBLE_LOSS = 0.5
COSINE_LOSS = 4.0
SPARSE_LOSS = 4.0
SPARSE_SCALE = 0.2
#: The term frequency at which BM25's weight is half of its limit, and the share of it that grows with the length.
K1, B = 1.2, 0.75
AVERAGE_LENGTH = 100
#: The attention of a token to itself in the head that compares tokens, in nats above a random other token.
SAMENESS = 5.0
RATE = 6e-4
SCHEDULE = Schedule(steps=400, horizon=400, cool_down=400)


@dataclass
class Encoded:
    """Encoded texts: dense (n, hidden) and multi_vector (n, length, d) in unit length, weights (n, length) by token."""

    dense: Tensor
    weights: Tensor
    multi_vector: Tensor
    ids: Tensor


def encoder_config(layers: int, **more: Any) -> XLMRobertaConfig:
    """Return the configuration that both pocket models share."""
    return XLMRobertaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=INTERMEDIATE,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=MAX_LENGTH + 2,
        layer_norm_eps=1e-5,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        **({"type_vocab_size": 1} | more),
    )


class PocketM3(nn.Module):
    """The backbone and the heads of `BAAI/bge-m3`, in a small size."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = XLMRobertaModel(encoder_config(LAYERS), add_pooling_layer=True)
        self.colbert_linear = nn.Linear(HIDDEN, MULTI_VECTOR)
        self.sparse_linear = nn.Linear(HIDDEN, 1)

    def hidden(self, ids: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the last hidden states (n, length, hidden) of padded ids (n, length) that start at `offsets` (n,)."""
        places = None
        if offsets is not None:
            places = (torch.arange(ids.shape[1]) + PAD + 1 + offsets[:, None]).masked_fill(ids == PAD, PAD)
        output = self.trunk(input_ids=ids, attention_mask=(ids != PAD).long(), position_ids=places)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def forward(self, ids: Tensor, offsets: Tensor | None = None) -> Encoded:
        hidden = self.hidden(ids, offsets)
        dense = F.normalize(hidden[:, 0], dim=-1)
        weights = torch.relu(self.sparse_linear(hidden)).squeeze(-1) * (ids >= len(SPECIAL_TOKENS))
        vectors = F.normalize(self.colbert_linear(hidden[:, 1:]), dim=-1) * (ids[:, 1:] != PAD).unsqueeze(-1)
        return Encoded(dense, weights, vectors, ids)


def pad(rows: list[np.ndarray]) -> Tensor:
    """Return ids (n, longest), padded on the right."""
    out = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for i, ids in enumerate(rows):
        out[i, : len(ids)] = ids
    return torch.from_numpy(out)


@torch.no_grad()
def start_from_bag(model: PocketM3, bag: Bag) -> None:
    """Initialize the weights so that the untrained CLS vector is already the bag's vector.

    All layers except the last start near the identity. In the last layer, queries are constant, keys read the bag's
    weight of a token, values and output are the identity, and the output bias subtracts the <s> vector itself. In its
    last head, tokens other than <s> attend to equal tokens too: so they learn how often they occur in how long a text.
    """
    x = bag.token_vectors()
    trunk: Any = model.trunk
    for parameter in trunk.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    embeddings = trunk.embeddings
    embeddings.word_embeddings.weight.copy_(x)
    nn.init.normal_(embeddings.position_embeddings.weight, std=0.002)
    nn.init.zeros_(embeddings.token_type_embeddings.weight)
    for layer in trunk.encoder.layer:
        layer.attention.output.dense.weight.mul_(0.1)
        layer.output.dense.weight.mul_(0.1)
    attention = trunk.encoder.layer[-1].attention
    attention.self.query.weight.mul_(0.1)
    attention.self.value.weight.zero_()
    constant, size = 4.0, HIDDEN // HEADS
    outside = torch.eye(HIDDEN) - torch.outer(x[BOS], x[BOS]) / x[BOS].square().sum()
    same = slice(HIDDEN - size + 1, HIDDEN)
    for linear in (attention.self.query, attention.self.key):
        linear.weight[same].copy_(outside[same] * math.sqrt(SAMENESS / math.sqrt(size)))
    for head in range(HEADS):
        row = head * size
        attention.self.query.weight[row].zero_()
        attention.self.query.bias[row] = constant
        attention.self.key.weight[row].copy_(bag.weight * math.sqrt(size) / constant)
    attention.self.value.weight.add_(torch.eye(HIDDEN))
    attention.output.dense.weight.add_(torch.eye(HIDDEN))
    attention.output.dense.bias.copy_(-x[BOS])
    trunk.pooler.dense.weight.copy_(torch.eye(HIDDEN))


def lexical_weights(ids: Tensor, idf: np.ndarray) -> Tensor:
    """Return the weights (n, length) of tokens whose products are BM25's scores, up to the query's part of them.

    M3's sparse vector has one weight per token for queries and passages alike, so each gets the square root of idf.
    """
    rows = ids.numpy()
    real = rows >= len(SPECIAL_TOKENS)
    weights = np.zeros(rows.shape, dtype=np.float32)
    for i, row in enumerate(rows):
        _, places, counts = np.unique(row[real[i]], return_inverse=True, return_counts=True)
        length = real[i].sum() / AVERAGE_LENGTH
        often = counts / (counts + K1 * (1 - B + B * length))
        weights[i, real[i]] = SPARSE_SCALE * (K1 + 1) * (np.sqrt(idf[row[real[i]]]) * often[places])
    return torch.from_numpy(weights)


@torch.no_grad()
def start_heads(model: PocketM3, rows: list[np.ndarray], idf: np.ndarray, seed: int) -> None:
    """Fit the sparse head to BM25's weights by least squares, and the multi-vector head to the principal directions."""
    sample = np.random.default_rng([seed, 3]).choice(len(rows), 400, replace=False)
    ids = pad([with_specials(rows[i][:LENGTH]) for i in sample])
    hidden = model.hidden(ids)[ids >= len(SPECIAL_TOKENS)]
    weights = lexical_weights(ids, idf)[ids >= len(SPECIAL_TOKENS)]
    inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
    gram = inputs.T @ inputs + 1e-2 * len(inputs) * torch.eye(HIDDEN + 1)
    solution = torch.linalg.solve(gram, inputs.T @ weights)
    model.sparse_linear.weight.copy_(solution[None, :-1])
    model.sparse_linear.bias.copy_(solution[-1:])
    centre = (hidden * weights[:, None]).sum(0) / weights.sum()
    _, _, directions = torch.linalg.svd((hidden - centre) * weights[:, None], full_matrices=False)
    model.colbert_linear.weight.copy_(directions[:MULTI_VECTOR])
    model.colbert_linear.bias.copy_(-directions[:MULTI_VECTOR] @ centre)


def draw_offsets(rows: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Return the start position of each text: half start at 0, half anywhere, so that every position is trained."""
    room = MAX_LENGTH - np.array([len(ids) for ids in rows])
    return np.where(generator.random(len(rows)) < 0.5, 0, generator.integers(room + 1))


def encode_sorted(model: PocketM3, rows: list[np.ndarray], chunks: int, offsets: np.ndarray | None = None) -> Encoded:
    """Encode texts in a few chunks sorted by length, for little padding; the results are in the given order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    size = math.ceil(len(rows) / chunks)
    parts = []
    for start in range(0, len(rows), size):
        chosen = order[start : start + size]
        places = None if offsets is None else torch.from_numpy(offsets[chosen])
        parts.append(model(pad([rows[i] for i in chosen]), places))
    longest = max(part.ids.shape[1] for part in parts)
    back = torch.from_numpy(np.argsort(order))

    def joined(tensors: list[Tensor], length: int, value: int) -> Tensor:
        wide = [F.pad(t, (0, 0) * (t.dim() - 2) + (0, length - t.shape[1]), value=value) for t in tensors]
        return torch.cat(wide)[back]

    return Encoded(
        torch.cat([part.dense for part in parts])[back],
        joined([part.weights for part in parts], longest, 0),
        joined([part.multi_vector for part in parts], longest - 1, 0),
        joined([part.ids for part in parts], longest, PAD),
    )


def all_scores(query: Encoded, passage: Encoded) -> dict[str, Tensor]:
    """Return the (queries, passages) matrices of the three scores and of their mean."""
    kept, local = torch.unique(torch.cat([query.ids.flatten(), passage.ids.flatten()]), return_inverse=True)

    def lexical(ids: Tensor, weights: Tensor) -> Tensor:
        return torch.zeros(len(ids), len(kept)).scatter_reduce(1, ids, weights, "amax")

    split = query.ids.numel()
    sparse_query = lexical(local[:split].view_as(query.ids), query.weights)
    sparse_passage = lexical(local[split:].view_as(passage.ids), passage.weights)
    real = query.ids[:, 1:] != PAD
    own, others = query.multi_vector[real], passage.multi_vector.flatten(0, 1)
    with torch.no_grad():
        parts = torch.split(passage.multi_vector, 16)
        found = [(own @ part.flatten(0, 1).T).view(len(own), len(part), -1).argmax(-1) for part in parts]
        nearest = torch.cat(found, 1) + passage.multi_vector.shape[1] * torch.arange(len(passage.ids))
    # Only the nearest vectors have a gradient; all similarities again would double the time of a step.
    best = (own[:, None] * others[nearest]).sum(-1)
    summed = torch.zeros(len(query.ids), len(passage.ids)).index_add(0, real.nonzero()[:, 0], best)
    scores = {
        "dense": query.dense @ passage.dense.T,
        "sparse": sparse_query @ sparse_passage.T,
        "multi_vector": summed / real.sum(1, keepdim=True),
    }
    return scores | {"sum": torch.stack(list(scores.values())).mean(0)}


def joint_loss(scores: dict[str, Tensor], taught: Tensor, excluded: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss: InfoNCE of the three scores and their mean, and distillation of an ensemble into all of them.

    The ensemble consists of the mean of the three scores, as in the M3 paper, and the teacher's cosines `taught`.
    """
    losses = {name: contrast(score / TEMPERATURES[name], excluded) for name, score in scores.items()}
    own = scores["sum"].detach() / TEMPERATURES["sum"]
    ensemble = (1 - TEACHER_SHARE) * own + TEACHER_SHARE * taught / TEMPERATURES["dense"]
    target = torch.softmax(ensemble.masked_fill(excluded, -1e4), -1)
    distilled = [
        F.cross_entropy(scores[name].masked_fill(excluded, -1e4) / TEMPERATURES[name], target) for name in scores
    ]
    loss = torch.stack([*losses.values(), *(ENSEMBLE_LOSS * loss for loss in distilled)]).sum()
    return loss, {name: value.item() for name, value in losses.items()}


def train_embedder(
    lessons: Lessons,
    rows: list[np.ndarray],
    taught: np.ndarray,
    directions: np.ndarray,
    pairs: Pairs,
    negatives: np.ndarray,
    idf: np.ndarray,
    model: PocketM3,
    state_file: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Train all weights jointly; each step draws one of the mined texts `negatives` (pairs, k) of each pair.

    `rows` are the texts' ids, `taught` the teacher's vectors of them, and `directions` turn those into dense vectors.
    """
    words = model.trunk.get_parameter("embeddings.word_embeddings.weight")
    others = [p for p in model.parameters() if p is not words]
    per_epoch = len(pairs) // BATCH
    turned = torch.from_numpy(directions)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        order = np.random.default_rng([seed, 4, step // per_epoch]).permutation(len(pairs))
        chosen = order[(step % per_epoch) * BATCH :][:BATCH]
        generator = np.random.default_rng([seed, 5, step])
        batch = make_batch(lessons, pairs, negatives, chosen, generator.integers(negatives.shape[1], size=BATCH))
        query_rows = [with_specials(rows[i][:LONG]) for i in batch.queries]
        text_rows = [with_specials(rows[i][:LONG]) for i in batch.texts]
        query = encode_sorted(model, query_rows, 2)
        text = encode_sorted(model, text_rows, CHUNKS, draw_offsets(text_rows, generator))
        asked, read = (torch.from_numpy(taught[texts]).float() for texts in (batch.queries, batch.texts))
        loss, figures = joint_loss(all_scores(query, text), asked @ read.T, torch.from_numpy(batch.excluded()))
        goal = F.normalize(torch.cat([asked, read]) @ turned, dim=-1)
        cosine = (torch.cat([query.dense, text.dense]) * goal).sum(-1).mean()
        errors = torch.stack(
            [
                F.mse_loss(out.weights[kept], lexical_weights(out.ids, idf)[kept])
                for out in (query, text)
                for kept in [out.ids >= len(SPECIAL_TOKENS)]
            ]
        ).mean()
        loss = loss + COSINE_LOSS * (1 - cosine) + SPARSE_LOSS * errors
        return loss, figures | {"cosine": cosine.item(), "lexical error": errors.item()}

    groups = [{"params": [words], "lr": 2 * RATE}, {"params": others, "lr": RATE}]
    train("embedder", model, groups, SCHEDULE, loss_of, state_file, progress)
