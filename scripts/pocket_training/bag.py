"""Token vectors, trained first as a weighted bag of words: a minute of CPU, and a strong start for the embedder."""

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
    """Text vector = mean of layer-normed token vectors x, token i weighing exp(u·x_i).

    This is what one head of attention from <s> can compute, so the trained bag becomes the embedder's last layer.
    """

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(VOCABULARY_SIZE, hidden))
        self.weight = nn.Parameter(torch.zeros(hidden))
        self.idf = nn.Linear(hidden, 1)

    def token_vectors(self) -> Tensor:
        """(vocabulary, hidden), each of mean 0 and variance 1."""
        return F.layer_norm(self.vectors, self.vectors.shape[1:])

    def forward(self, batch: list[np.ndarray], x: Tensor) -> Tensor:
        """Unit vectors (texts, hidden); each text is given by its ids, <s> and </s> among them."""
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.from_numpy(np.concatenate(batch)).long()
        offsets = torch.cumsum(lengths, 0) - lengths
        weights = torch.exp(x @ self.weight)[ids]
        return F.normalize(F.embedding_bag(ids, x, offsets, mode="sum", per_sample_weights=weights), dim=-1)


def contrast(scores: Tensor, excluded: Tensor) -> Tensor:
    """Cross-entropy of row i choosing column i of scores (n, m >= n), the excluded columns (n, m) left out."""
    return F.cross_entropy(scores.masked_fill(excluded, -1e4), torch.arange(len(scores)))


def train_bag(corpus: Corpus, tokens: Tokens, idf: np.ndarray, seed: int, progress: Progress) -> Bag:
    """InfoNCE in batches of 1024 pairs. A linear read-out of sqrt(idf) is trained along: the sparse head needs it."""
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
    """float32 unit vectors (texts, hidden)."""
    x = bag.token_vectors()
    parts = [bag([with_specials(ids) for ids in rows[i : i + 4096]], x).numpy() for i in range(0, len(rows), 4096)]
    return np.concatenate(parts)
