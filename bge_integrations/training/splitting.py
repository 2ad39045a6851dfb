"""Hold out queries for the evaluation, so that nothing of them is trained on."""

from __future__ import annotations

import hashlib
from numbers import Real

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.rows import TrainingRows, normalized
from bge_integrations.validation import check_whole_number

#: Fewest queries to hold out, below which intervals are too wide to say anything.
_FEWEST = 10


def hold_out(
    rows: TrainingRows, held_out: float = 0.1, *, most: int = 1000, seed: int = 0
) -> tuple[TrainingRows, TrainingRows]:
    """Split rows into those to train on and those to evaluate with.

    Rows whose queries are equal but for case, spaces and punctuation stay together, and so do rows that share a
    positive. The choice depends only on the texts and the seed: a query that is held out stays so when rows are added,
    unless the share is reached without it.

    Args:
        rows: All rows.
        held_out: Share of the distinct queries to hold out, above 0 and below 1.
        most: Maximum number of queries to hold out.
        seed: Another seed holds out other queries.

    Returns:
        The rows to train on and the held-out rows, each in the order of `rows`.

    Raises:
        InvalidInputError: An argument is invalid, or fewer than 10 queries can be held out.
    """
    if not isinstance(held_out, Real) or isinstance(held_out, bool) or not 0 < held_out < 1:
        raise InvalidInputError(f"{spelled('held_out', held_out)} must be above 0 and below 1", argument="held_out")
    check_whole_number(most, "most", least=_FEWEST)
    check_whole_number(seed, "seed", least=0)
    groups = _related(rows)
    queries = [{normalized(rows[i].query) for i in group} for group in groups]
    wanted = min(round(held_out * sum(map(len, queries))), most)
    order = sorted(range(len(groups)), key=lambda group: _digest(min(queries[group]), seed))
    chosen: set[int] = set()
    count = 0
    for group in order:
        if count + len(queries[group]) <= wanted:
            count += len(queries[group])
            chosen.update(groups[group])
    if count < _FEWEST:
        raise InvalidInputError(
            f"only {count} of {sum(map(len, queries))} queries can be held out for the evaluation, and at least "
            f"{_FEWEST} are needed",
            argument="held_out",
            advice=f"raise {spelled('held_out')}, or pass {spelled('held_out', 0)} for no evaluation, or evaluate on a "
            "data set of its own",
        )
    return rows.select(i for i in range(len(rows)) if i not in chosen), rows.select(sorted(chosen))


def _related(rows: TrainingRows) -> list[list[int]]:
    """Return groups of rows that share a query or a positive, directly or through other rows."""
    parents = list(range(len(rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first_with: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        for key in [("query", normalized(row.query)), *(("positive", normalized(text)) for text in row.pos)]:
            parents[root(i)] = root(first_with.setdefault(key, i))
    groups: dict[int, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _digest(query: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{query}".encode()).digest()
