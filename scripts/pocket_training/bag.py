"""Token vectors, trained first as a weighted bag of words: minutes of CPU time give the embedder a strong start."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from pocket_training.batches import Pairs
from pocket_training.data import VOCABULARY_SIZE, with_specials

HIDDEN = 256
BATCH = 2048
PAIRS = 512
TEMPERATURE = 0.05
CONTRAST_LOSS = 0.1
EPOCHS = 6
#: The spread of the vectors at the start. Since they are normalized later, small vectors learn faster.
START = 0.1
RATE = 1e-2
LENGTH = 256
IDF_LOSS = 0.02


class Bag(nn.Module):
    """A bag of words: the text vector is the mean of layer-normed token vectors x_i with weights exp(u·x_i).

    One attention head from <s> can compute this, so the trained bag becomes the embedder's last layer.
    """

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.vectors = nn.Parameter(START * torch.randn(VOCABULARY_SIZE, hidden))
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


def principal_directions(taught: np.ndarray, seed: int) -> np.ndarray:
    """Return float32 (width, HIDDEN): they turn the teacher's vectors into ones of mean 0 with like cosines.

    The mean is 0 because a layer norm can return nothing else. A random rotation spreads the variance evenly.
    """
    sample = taught[:: max(1, len(taught) // 50_000)].astype(np.float64)
    _, directions = np.linalg.eigh(sample.T @ sample)
    spread = np.random.default_rng([seed, 13]).standard_normal((HIDDEN, HIDDEN - 1))
    rotation = np.linalg.qr(spread - spread.mean(0))[0]
    return np.asarray(directions[:, 1 - HIDDEN :] @ rotation.T, dtype=np.float32)


def train_bag(
    rows: list[np.ndarray],
    taught: np.ndarray,
    directions: np.ndarray,
    pairs: Pairs,
    idf: np.ndarray,
    seed: int,
    progress: Progress,
) -> Bag:
    """Fit the vectors of the texts `rows` (ids) to the teacher's, with InfoNCE on the pairs.

    A linear read-out of sqrt(idf) is trained along, for the sparse head.
    """
    torch.manual_seed(seed)
    bag = Bag()
    per_epoch = len(rows) // BATCH
    steps = EPOCHS * per_epoch
    optimizer = torch.optim.Adam(bag.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    target = torch.from_numpy(np.sqrt(idf))
    turned = torch.from_numpy(directions)
    task = progress.add_task("token vectors", total=steps)
    for step in range(steps):
        order = np.random.default_rng([seed, 1, step // per_epoch]).permutation(len(rows))
        chosen = order[(step % per_epoch) * BATCH :][:BATCH]
        drawn = np.random.default_rng([seed, 2, step]).permutation(len(pairs))[:PAIRS]
        x = bag.token_vectors()

        def vectors(texts: np.ndarray, x: Tensor = x) -> Tensor:
            return bag.forward([with_specials(rows[i][:LENGTH]) for i in texts], x)

        goal = F.normalize(torch.from_numpy(taught[chosen]).float() @ turned, dim=-1)
        distance = 1 - (vectors(chosen) * goal).sum(-1).mean()
        queries, golds = pairs.queries[drawn], pairs.golds[drawn]
        same = (queries[:, None] == queries[None]) | (golds[:, None] == golds[None])
        np.fill_diagonal(same, False)
        scores = vectors(queries) @ vectors(pairs.texts[drawn]).T
        loss = distance + CONTRAST_LOSS * contrast(scores / TEMPERATURE, torch.from_numpy(same))
        loss = loss + IDF_LOSS * F.mse_loss(bag.idf(x).squeeze(-1), target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress.update(task, advance=1, description=f"token vectors, cosine {1 - distance.item():.3f}")
    return bag


@torch.no_grad()
def bag_vectors(bag: Bag, rows: list[np.ndarray]) -> np.ndarray:
    """Return float32 unit vectors (texts, hidden)."""
    x = bag.token_vectors()
    parts = [bag([with_specials(ids) for ids in rows[i : i + 4096]], x).numpy() for i in range(0, len(rows), 4096)]
    return np.concatenate(parts)
