"""Compacting the files of multi-vectors: rows of replaced and deleted documents are dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import qdrant_edge as edge

from bge_integrations.index.edge_types import PLACE, engine_errors, place_of, place_vector

if TYPE_CHECKING:
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.vector_files import Place, VectorFiles

#: A file is compacted if a larger share of its rows is unused.
_UNUSED = 0.25
#: Points whose places are read at a time, and documents whose rows are moved at a time. Searches run in between.
_PAGE, _MOVED = 1000, 64


def compact(
    files: VectorFiles,
    shard: edge.EdgeShard,
    folder: Folder,
    lock: ReadWriteLock,
    before_move: Callable[[Collection[str]], None],
) -> None:
    """Move the rows that are in use out of files that are mostly unused, and remove these files.

    A kill at any moment leaves each document with its old or its new place, and both files.

    Args:
        files: The files.
        shard: The engine, which knows the places.
        folder: The folder of the index.
        lock: The lock of the index, which the caller does not hold.
        before_move: Called with the points whose places are about to change; an exception stops everything.

    Raises:
        DiskFullError: There is not enough disk space for the rows that are moved.
    """
    used: Counter[int] = Counter()
    with lock.read():
        rows = files.rows  # before they are counted: rows that are added meanwhile are in use
    for _, place in _places(shard, lock):
        used[place.file] += place.length
    chosen = {number for number, count in rows.items() if count - used[number] > _UNUSED * count}
    if not chosen:
        return
    with lock.write():
        files.close_for_writing(chosen)
    batch: list[str] = []
    for point, place in _places(shard, lock):
        if place.file in chosen:
            batch.append(point)
        if len(batch) == _MOVED:
            _move(batch, chosen, files, shard, folder, lock, before_move)
            batch = []
    _move(batch, chosen, files, shard, folder, lock, before_move)
    with lock.read(), engine_errors():
        shard.flush()  # the new places must be on disk before the old rows are gone
    with lock.write():
        folder.check_exists()  # there can be another index in its place
        for number in chosen:
            files.remove(number)


def _places(shard: edge.EdgeShard, lock: ReadWriteLock) -> Iterator[tuple[str, Place]]:
    """Yield each point that has multi-vectors, and its place."""
    after = None
    while True:
        request = edge.ScrollRequest(offset=after, limit=_PAGE, with_payload=False, with_vector=[PLACE])
        with lock.read(), engine_errors():
            points, after = shard.scroll(request)
        yield from ((str(point.id), place_of(point.vector)) for point in points if point.vector)
        if after is None:
            return


def _move(
    points: Collection[str],
    chosen: set[int],
    files: VectorFiles,
    shard: edge.EdgeShard,
    folder: Folder,
    lock: ReadWriteLock,
    before_move: Callable[[Collection[str]], None],
) -> None:
    """Move the rows of these points, unless a point was replaced or deleted in the meantime."""
    with lock.write(), engine_errors():
        stored = shard.retrieve(list(points), with_payload=False, with_vector=[PLACE])
        places = {str(point.id): place_of(point.vector) for point in stored if point.vector}
        places = {point: place for point, place in places.items() if place.file in chosen}
        if not places:
            return
        rows = [files.rows_at(place) for place in places.values()]
        folder.check_room(sum(codes.nbytes for codes in rows))
        before_move(places)
        added = zip(places, files.append(rows), strict=True)
        shard.update(
            edge.UpdateOperation.update_vectors(
                [edge.PointVectors(point, {PLACE: place_vector(place)}) for point, place in added]
            )
        )
