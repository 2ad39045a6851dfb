"""A query with its passages, drawn anew at each visit of a row, as a dataset that torch's DataLoader reads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from torch.utils.data import Dataset

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled

if TYPE_CHECKING:
    from bge_integrations.training.rows import TrainingRow, TrainingRows

#: Maximum number of characters of a positive that is never shuffled.
_SHORT = 100
#: The advice for rows without negatives.
_MINE = "mine negatives with `bge mine`, which fills rows that lack some with --fill"


@dataclass(frozen=True)
class RowSet:
    """Rows that may share a batch, and how their batches are made.

    Attributes:
        rows: Their positions in the data.
        batch_size: Queries per process and batch.
        group_size: Passages per query.
        own_negatives: Compare a query only with the passages of its own group.
        is_symmetric: Passages are texts of the same kind as queries, and get the queries' instruction.
    """

    rows: Sequence[int]
    batch_size: int
    group_size: int
    own_negatives: bool = False
    is_symmetric: bool = False


class Visit(NamedTuple):
    """One use of a row in an epoch."""

    epoch: int
    row: int
    row_set: RowSet


@dataclass(frozen=True)
class Group:
    """A query and its passages, the positive first.

    Attributes:
        row: Where they come from.
        passages: As many as the group size of `visit.row_set`.
        teacher_scores: One per passage; None if the row has none.
    """

    visit: Visit
    row: TrainingRow
    passages: tuple[str, ...]
    teacher_scores: tuple[float, ...] | None


def random_for(seed: int, *parts: object) -> random.Random:
    """Return a generator that depends on nothing else than the seed and these parts, so that any step can be redone."""
    return random.Random(":".join(map(str, (seed, *parts))))


def draw_group(visit: Visit, row: TrainingRow, generator: random.Random) -> Group:
    """Draw one positive and `group_size` - 1 negatives.

    Negatives are not repeated unless the row has too few; then each appears about equally often.
    """
    positive = generator.randrange(len(row.pos))
    wanted = visit.row_set.group_size - 1
    chosen = range(len(row.neg))
    if wanted:
        repeated = [*chosen] * -(-wanted // len(row.neg))
        negatives = generator.sample(repeated, wanted)
    else:
        negatives = []
    passages = (row.pos[positive], *(row.neg[i] for i in negatives))
    scores = None
    if row.pos_scores is not None and (row.neg_scores is not None or not wanted):
        scores = (row.pos_scores[positive], *((row.neg_scores or ())[i] for i in negatives))
    return Group(visit, row, passages, scores)


class Groups(Dataset[Group]):
    """The groups of the rows, by visit. The same visit always draws the same passages.

    Args:
        rows: The data.
        seed: Determines what is drawn.
        shuffle_ratio: The share of long positives whose parts are shuffled.
    """

    def __init__(self, rows: Sequence[TrainingRow], seed: int, shuffle_ratio: float = 0.0) -> None:
        self._rows = rows
        self._seed = seed
        self._shuffle_ratio = shuffle_ratio

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, visit: Visit) -> Group:
        generator = random_for(self._seed, "group", visit.epoch, visit.row)
        group = draw_group(visit, self._rows[visit.row], generator)
        positive, *negatives = group.passages
        if len(positive) <= _SHORT or generator.random() >= self._shuffle_ratio:
            return group
        return replace(group, passages=(_shuffled(positive, generator), *negatives))


def _shuffled(text: str, generator: random.Random) -> str:
    """Return the three parts of a text in random order."""
    size = len(text) // 3 + 1
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    generator.shuffle(parts)
    return " ".join(parts)


def check_group_size(rows: TrainingRows, group_size: int, own_negatives: bool) -> int:
    """Return the group size that the rows allow: 1 if none of them has negatives.

    Raises:
        InvalidInputError: Only some rows have negatives, or negatives are needed and there are none.
    """
    without = [i for i, row in enumerate(rows) if not row.neg]
    if len(without) == len(rows):
        group_size = 1
    if group_size == 1 and own_negatives:
        raise InvalidInputError(
            "a query is compared only with the passages of its own row, so rows need negatives and "
            f"{spelled('group_size')} must be at least 2",
            argument="group_size",
            advice=f"{_MINE}, or leave the in-batch negatives on",
        )
    if group_size > 1 and without:
        raise InvalidInputError(
            f"{len(without)} of {len(rows)} rows have no negatives, the first is {rows.locations[without[0]]}",
            argument="group_size",
            advice=f"{_MINE}, or pass {spelled('group_size', 1)} to use in-batch negatives only",
        )
    return group_size


def check_negatives(rows: TrainingRows) -> None:
    """Raise InvalidInputError if a row has no negatives."""
    without = [i for i, row in enumerate(rows) if not row.neg]
    if without:
        raise InvalidInputError(
            f"{len(without)} of {len(rows)} rows have no negatives, the first is {rows.locations[without[0]]}",
            argument="data",
            advice=f"{_MINE}, or leave these rows out",
        )


def check_teacher_scores(rows: TrainingRows) -> None:
    """Raise InvalidInputError if a row has no teacher scores."""
    without = [i for i, row in enumerate(rows) if row.pos_scores is None]
    if without:
        raise InvalidInputError(
            f"{len(without)} of {len(rows)} rows have no teacher scores, the first is {rows.locations[without[0]]}",
            argument="distillation",
            advice=f"add pos_scores and neg_scores with `bge teach`, or leave {spelled('distillation')} out",
        )
