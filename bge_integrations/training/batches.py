"""Which rows form a batch, and in which order: the same for a seed and an epoch, on any process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.groups import RowSet, Visit, random_for

#: With `lengths`, rows are sorted within random chunks of this many batches.
_CHUNK_BATCHES = 50


class BatchPlan(Sampler[list[Visit]]):
    """Yields the batches of one process, each with rows of one row set.

    All processes cut the same batches of `batch_size` × `processes` rows, and each takes its part, so they always
    have rows of the same set and the same number of them. Fewer rows than processes are never a batch.

    Args:
        row_sets: The rows.
        seed: Determines the order.
        processes, process: How many processes train, and which of them this is.
        drop_last: Leave out what doesn't fill a batch of all processes; otherwise it becomes a smaller batch.
        lengths: The length of each row, by which rows are grouped; None doesn't group them.

    Raises:
        InvalidInputError: No row set fills a batch.
    """

    def __init__(
        self,
        row_sets: Sequence[RowSet],
        seed: int,
        *,
        processes: int = 1,
        process: int = 0,
        drop_last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self._row_sets = row_sets
        self._seed = seed
        self._processes = processes
        self._process = process
        self._drop_last = drop_last
        self._lengths = lengths
        self._epoch = 0
        self._count = sum(len(self._cut(row_set, list(row_set.rows))) for row_set in row_sets)
        if not self._count:
            most = max((len(row_set.rows) for row_set in row_sets), default=0)
            raise InvalidInputError(
                f"{most} rows don't fill a batch of {row_sets[0].batch_size if row_sets else 0} queries"
                + (f" on each of {processes} processes" if processes > 1 else ""),
                argument="batch_size",
                advice=f"lower {spelled('batch_size')}, or pass {spelled('drop_last', False)}",
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are yielded next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[Visit]]:
        generator = random_for(self._seed, "order", self._epoch)
        batches: list[tuple[RowSet, list[int]]] = []
        for row_set in self._row_sets:
            order = list(row_set.rows)
            generator.shuffle(order)
            if self._lengths is not None:
                order = _sorted_in_chunks(order, self._lengths, _CHUNK_BATCHES * row_set.batch_size * self._processes)
            batches += [(row_set, batch) for batch in self._cut(row_set, order)]
        generator.shuffle(batches)
        for row_set, batch in batches:
            share = len(batch) // self._processes
            own = batch[self._process * share : (self._process + 1) * share]
            yield [Visit(self._epoch, row, row_set) for row in own]

    def _cut(self, row_set: RowSet, order: list[int]) -> list[list[int]]:
        """Cut rows into batches of all processes."""
        size = row_set.batch_size * self._processes
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if batches and len(batches[-1]) < size:
            rest = batches.pop()
            if not self._drop_last and len(rest) >= self._processes:
                batches.append(rest)
        return batches


def _sorted_in_chunks(order: list[int], lengths: Sequence[int], chunk: int) -> list[int]:
    return [
        row
        for start in range(0, len(order), chunk)
        for row in sorted(order[start : start + chunk], key=lengths.__getitem__)
    ]
