"""Token vectors, trained first as a weighted bag of words: a minute of CPU time gives the embedder a strong start."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from pocket_training.data import VOCABULARY_SIZE, Corpus, Tokens, with_specials

HIDDEN = 192
BATCH = 1024
EPOCHS = 8
TEMPERATURE = 0.05
IDF_LOSS = 0.1


class Bag(nn.Module):
    """A bag of words: the text vector is the mean of layer-normed token vectors x_i with weights exp(u·x_i).

    One attention head from <s> can compute this, so the trained bag becomes the embedder's last layer.
    """

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(VOCABULARY_SIZE, hidden))
        self.weight = nn.Parameter(torch.zeros(hidden))
        self.idf = nn.Linear(hidden, 1)

    def token_vectors(self) -> Tensor:
        """Return (vocabulary, hidden), each vector with mean 0 and variance 1."""
        return F.layer_norm(self.vectors, self.vectors.shape[1:])

    def forward(self, batch: list[np.ndarray], x: Tensor) -> Tensor:
        """Return unit vectors (texts, hidden) of texts given by their ids, including <s> and </s>."""
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.from_numpy(np.concatenate(batch)).long()
        offsets = torch.cumsum(lengths, 0) - lengths
        weights = torch.exp(x @ self.weight)[ids]
        return F.normalize(F.embedding_bag(ids, x, offsets, mode="sum", per_sample_weights=weights), dim=-1)


def contrast(scores: Tensor, excluded: Tensor) -> Tensor:
    """Return the cross-entropy of row i choosing column i of scores (n, m >= n), without the columns in excluded."""
    return F.cross_entropy(scores.masked_fill(excluded, -1e4), torch.arange(len(scores)))


def train_bag(corpus: Corpus, tokens: Tokens, idf: np.ndarray, seed: int, progress: Progress) -> Bag:
    """Train with InfoNCE in batches of 1024 pairs, along with a linear read-out of sqrt(idf) for the sparse head."""
    torch.manual_seed(seed)
    bag = Bag()
    steps = EPOCHS * (len(corpus.pairs) // BATCH)
    optimizer = torch.optim.Adam(bag.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps, pct_start=0.1)
    target = torch.from_numpy(np.sqrt(idf))
    task = progress.add_task("token vectors", total=steps)
    per_epoch = len(corpus.pairs) // BATCH
    for step in range(steps):
        generator = np.random.default_rng([seed, 1, step // per_epoch])
        order = generator.permutation(len(corpus.pairs))
        chosen = corpus.pairs[order[(step % per_epoch) * BATCH :][:BATCH]]
        titled = np.random.default_rng([seed, 2, step]).random(BATCH) < 0.5
        golds = [tokens.passage(p, p + 1, t, 160) for (_, p), t in zip(chosen.tolist(), titled, strict=True)]
        x = bag.token_vectors()
        queries = bag([with_specials(tokens.queries[q]) for q, _ in chosen], x)
        passages = bag([with_specials(ids) for ids in golds], x)
        same = (chosen[:, None] == chosen[None]).any(2) & ~np.eye(BATCH, dtype=bool)
        loss = contrast(queries @ passages.T / TEMPERATURE, torch.from_numpy(same))
        loss = loss + IDF_LOSS * F.mse_loss(bag.idf(x).squeeze(-1), target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress.update(task, advance=1, description=f"token vectors, loss {loss.item():.3f}")
    return bag


@torch.no_grad()
def bag_vectors(bag: Bag, rows: list[np.ndarray]) -> np.ndarray:
    """Return float32 unit vectors (texts, hidden)."""
    x = bag.token_vectors()
    parts = [bag([with_specials(ids) for ids in rows[i : i + 4096]], x).numpy() for i in range(0, len(rows), 4096)]
    return np.concatenate(parts)
