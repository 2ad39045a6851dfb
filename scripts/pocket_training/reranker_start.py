"""The initialization of the pocket reranker: a cross-encoder whose weights compute the embedder's late interaction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from transformers import XLMRobertaForSequenceClassification

from pocket_training.bag import HIDDEN
from pocket_training.batches import LENGTH, Pairs
from pocket_training.data import BOS, EOS, PAD, with_specials
from pocket_training.embedder import HEADS, LAYERS, PocketM3, encode_sorted, encoder_config, pad

HEAD = HIDDEN // HEADS
#: How far the token type moves a token's vector, whose norm is √192.
SIDE = 4.0
#: The penalty on keys of the other text in the first layers' attention, in nats.
APART = 12.0
#: For each head of the matching layer: its sharpness, and the bonus for keys of the passage, in nats.
MATCH = ((14.0, 3.0), (20.0, 4.0), (10.0, 2.0), (30.0, 6.0))
#: How much more attention the last layer's <s> pays to a token of sparse weight 1 than to one of weight 0, in nats.
FOCUS = 4.0
#: The pooled value is divided by this before the head's tanh, which is nearly linear close to 0, and multiplied after.
RANGE = 40.0
#: The final scale of the logits, which would otherwise be overconfident.
SOFTER = 0.5

QUERY_LENGTH = 48

FIT_STEPS = 500
FIT_QUERIES = 16
FIT_LIST = 4
FIT_RATE = 2e-3


class _Directions:
    """Directions of the hidden space that carry information the embedder lacks; each layer norm changes them.

    side: the text that a token belongs to. special: <s> and </s>. match: how well the passage matches a query token.
    pooled: the mean match over the query.
    """

    def __init__(self, generator: torch.Generator) -> None:
        spread = torch.randn(HIDDEN, 4, generator=generator)
        self.side, self.special, self.match, self.pooled = torch.linalg.qr(spread - spread.mean(0)).Q.T

    def after(self, norm: nn.LayerNorm) -> None:
        for name, direction in vars(self).items():
            setattr(self, name, F.normalize(norm.weight * direction, dim=0))

    def outside(self) -> Tensor:
        """Return the projection (hidden, hidden) that removes these directions."""
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
    """Restrict each token's attention to its own text: in each head, `side` replaces the weakest direction."""
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
    """Return the mean component of the passages' tokens along a direction, after the embedder's layers."""
    mask, types = (ids != PAD).long(), torch.ones_like(ids)
    output = trunk(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
    hidden: Tensor = output.hidden_states[LAYERS]
    return (hidden[ids != PAD] @ direction).mean()


@torch.no_grad()
def start_reranker(model: PocketM3, texts: list[np.ndarray], seed: int) -> XLMRobertaForSequenceClassification:
    """Return a cross-encoder that ranks without training; so small a model learns this slowly from labels alone.

    The token type moves a vector along `side`. Then come the embedder's layers, in which each text attends only to
    itself. In the next layer a token attends to similar tokens by the embedder's multi-vectors: to itself, and with a
    bonus to the passage's. The mean `side` of these tokens is written along `match`, and so measures how well the
    passage matches a query token. In the last layer <s> averages this over the query, mostly over tokens with a high
    sparse weight.
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
    sample_ids = pad([with_specials(ids[:LENGTH]) for ids in texts[:: max(1, len(texts) // 200)]])
    sample = model.hidden(sample_ids)
    side = _reach(trunk, directions.side, sample_ids)
    norm = (sample.flatten(0, 1) @ vectors.T + centre).square().sum(-1).mean()
    for head, (sharpness, favour) in enumerate(MATCH):
        scale = (sharpness / norm).sqrt()
        query = torch.cat([scale * vectors, torch.zeros(1, HIDDEN)])
        place = favour / (2 * side) * directions.side - APART / side * directions.special
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
    reranker.classifier.dense.weight[0].copy_(directions.pooled / RANGE)
    reranker.classifier.out_proj.weight[0, 0] = RANGE * SOFTER
    return reranker


def pair_ids(query: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """Return <s> query </s> <s> passage </s>."""
    return np.concatenate([[BOS], query, [EOS, BOS], passage, [EOS]]).astype(np.int64)


def token_types(ids: Tensor) -> Tensor:
    """Return the token types of padded pairs (n, length): 0 in the query, 1 in the passage."""
    return ((ids == BOS).cumsum(1) - 1) * (ids != PAD)


def _passage_attention(
    query: Tensor, passage: Tensor, own: Tensor, other: Tensor, sharpness: float, favour: float
) -> Tensor:
    """Return a query token's attention to the passage relative to the query, in nats, by its cosines to all tokens.

    query (n, q, width) and passage (n, p, width) are unit vectors; own (n, q) and other (n, p) mask their tokens.
    """
    to_own = (sharpness * query @ query.transpose(1, 2)).masked_fill(~own[:, None], -math.inf)
    to_other = (sharpness * query @ passage.transpose(1, 2)).masked_fill(~other[:, None], -math.inf)
    return to_other.logsumexp(-1) - to_own.logsumexp(-1) + favour


def fit_match(
    reranker: XLMRobertaForSequenceClassification,
    model: PocketM3,
    rows: list[np.ndarray],
    pairs: Pairs,
    negatives: np.ndarray,
    documents: np.ndarray,
    seed: int,
    progress: Progress,
) -> None:
    """Fit the matching layer's queries and keys to the cosines of the embedder's multi-vectors.

    A linear layer can't divide by norms as cosines do, so the heads learn the best approximation. Only the passage's
    share of a query token's attention is fitted.
    """
    trunk: Any = reranker.roberta
    attention = trunk.encoder.layer[LAYERS].attention.self
    optimizer = torch.optim.Adam([*attention.query.parameters(), *attention.key.parameters()], lr=FIT_RATE)
    for step in progress.track(range(FIT_STEPS), description="matching layer"):
        optimizer.param_groups[0]["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        generator = np.random.default_rng([seed, 11, step])
        chosen = generator.choice(len(pairs), FIT_QUERIES, replace=False)
        queries = [rows[i][:QUERY_LENGTH] for i in pairs.queries[chosen] for _ in range(FIT_LIST)]
        drawn = generator.permuted(negatives[chosen], axis=1)[:, : FIT_LIST - 2]
        others = generator.choice(documents, size=(FIT_QUERIES, 1))
        listed = np.concatenate([pairs.texts[chosen, None], drawn, others], axis=1).flatten()
        passages = [rows[i][:LENGTH] for i in listed]
        ids = pad([pair_ids(query, passage) for query, passage in zip(queries, passages, strict=True)])
        types = token_types(ids)
        with torch.no_grad():
            query = encode_sorted(model, [with_specials(row) for row in queries], 1)
            passage = encode_sorted(model, [with_specials(row) for row in passages], 1)
            own = query.ids[:, 1:] > EOS
            other = passage.ids[:, 1:] > EOS
            output = trunk(ids, attention_mask=(ids != PAD).long(), token_type_ids=types, output_hidden_states=True)
            hidden = output.hidden_states[LAYERS]
        losses = []
        for head, (sharpness, favour) in enumerate(MATCH):
            rows_of = slice(head * HEAD, (head + 1) * HEAD)
            asked = (hidden @ attention.query.weight[rows_of].T + attention.query.bias[rows_of])[
                :, 1 : own.shape[1] + 1
            ]
            keys = hidden @ attention.key.weight[rows_of].T + attention.key.bias[rows_of]
            logits = asked @ keys.transpose(1, 2) / math.sqrt(HEAD)
            logits = logits.masked_fill((ids == PAD)[:, None], -math.inf)
            to_passage = logits.masked_fill((types == 0)[:, None], -math.inf).logsumexp(-1)
            to_query = logits.masked_fill((types == 1)[:, None], -math.inf).logsumexp(-1)
            target = torch.sigmoid(
                _passage_attention(query.multi_vector, passage.multi_vector, own, other, sharpness, favour)
            )
            losses.append(F.binary_cross_entropy_with_logits((to_passage - to_query)[own], target[own]))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
