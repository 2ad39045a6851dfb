"""The storage engine for folders: Qdrant Edge, in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import qdrant_edge as edge

from bge_integrations.errors import StorageError
from bge_integrations.index.edge_types import (
    FIELD_TYPES,
    PLACE,
    config_of,
    engine_errors,
    filter_of,
    place_of,
    point_to_store,
    request_of,
    vectors_from,
)
from bge_integrations.index.files import copy_folder, disk_use, sync
from bge_integrations.index.filters import json_path, key_of
from bge_integrations.index.multi_vectors import MultiVectors
from bge_integrations.index.optimizing import CurrentShard, Optimizer, copy_shard
from bge_integrations.index.records import NewDocument, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import FieldKind, SubQuery
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.vector_files import Place
    from bge_integrations.index.vectors import Vectors

_logger = logging.getLogger(__name__)
#: More distinct strings than a key has.
_MAX_TEXTS = 2**31


class EdgeEngine:
    """An `Engine` on a folder. Every call holds the GIL, so batches must be small.

    Args:
        folder: The folder, which must stay locked for as long as the engine exists.
        manifest: The settings of the index.
        create: Create a shard; otherwise, open the one in the folder.
        lock: The lock that callers hold for searches and writes; the optimiser uses it, too.
        complete: Whether a new shard makes the folder an index at once; otherwise, `complete` does later.
    """

    queries_at_once = 1  # larger batches are not faster, and hold the lock longer

    def __init__(
        self, folder: Folder, manifest: Manifest, create: bool, lock: ReadWriteLock, complete: bool = True
    ) -> None:
        self._folder = folder
        self._lock = lock
        #: Held during the calls of a search. They hold the GIL, so searches wait for each other anyway. If they wait
        #: for this lock instead, the GIL is free for other threads, such as an event loop's, between two calls.
        self._searching = threading.Lock()
        self._multi_vectors: MultiVectors | None = None
        #: Multi-vectors in files pass the engine by, and many documents share one flush of the files.
        self.largest_request = (64 if manifest.in_files else 4) << 20
        with engine_errors():
            if not create:
                path = folder.shard()
                self._current = CurrentShard(path, edge.EdgeShard.load(str(path)))
                folder.remove_shards(keep=path)
            else:
                folder.check_room(0)
                path = folder.begin()
                path.mkdir()
                self._current = CurrentShard(path, edge.EdgeShard.create(str(path), config_of(manifest)))
        code = manifest.multi_vectors
        if manifest.in_files and code is not None and code != "recompute":
            self._multi_vectors = MultiVectors(folder.multi_vectors, code, manifest.multi_vector_dimension, create)
        if create and complete:
            folder.complete(path, manifest)
        files = None if self._multi_vectors is None else self._multi_vectors.files
        unoptimized = abs(self.count(None) - folder.optimized_points())
        self._optimizer = Optimizer(folder, lock, self._current, files, unoptimized)

    def complete(self, manifest: Manifest) -> None:
        """Make the folder of a new shard an index, if the constructor did not. The engine is closed already."""
        sync(self._current.path)
        self._folder.complete(self._current.path, manifest)

    def write(self, records: Sequence[Record]) -> None:
        self._folder.check_room(self._room_for(records))
        places = self._store_multi_vectors(records)
        self._optimizer.note_changes(record.document.point for record in records)
        points = [point_to_store(record, places.get(record.document.point)) for record in records]
        self._update(edge.UpdateOperation.upsert_points(points))

    def write_payloads(self, documents: Sequence[NewDocument]) -> None:
        self._folder.check_room(8 * sum(len(document.text) for document in documents))
        self._optimizer.note_changes(document.point for document in documents)
        for document in documents:
            self._update(edge.UpdateOperation.overwrite_payload([document.point], document.payload))

    def remove(self, points: Sequence[str]) -> None:
        self._optimizer.note_changes(points)
        self._update(edge.UpdateOperation.delete_points(list(points)))

    def index_field(self, key: str, kind: FieldKind) -> None:
        self._update(edge.UpdateOperation.create_field_index(json_path((key,)), FIELD_TYPES[kind]))

    def indexed_fields(self) -> dict[str, FieldKind]:
        kinds = {schema: kind for kind, schema in FIELD_TYPES.items()}
        with engine_errors():
            fields = self._shard.info().payload_schema
        return {key_of(path): kinds[field.data_type] for path, field in fields.items()}

    def texts(self, key: str) -> list[str]:
        with engine_errors():
            answer = self._shard.facet(edge.FacetRequest(json_path((key,)), limit=_MAX_TEXTS, exact=True))
        return [hit.value for hit in answer.hits if isinstance(hit.value, str)]

    def fetch(self, points: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        with self._searching, engine_errors():
            stored = self._shard.retrieve(list(points), with_payload=list(keys) if keys else True, with_vector=False)
        return {str(point.id): point.payload or {} for point in stored}

    def dense_vectors(self, points: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        with engine_errors():
            stored = self._shard.retrieve(list(points), with_payload=False, with_vector=["dense"])
        vectors = {str(point.id): point.vector for point in stored}
        return {i: np.asarray(named["dense"], np.float32) for i, named in vectors.items() if named}  # type: ignore[call-overload]

    def page(
        self, condition: Condition | None, after: str | None, size: int, keys: Sequence[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        request = edge.ScrollRequest(
            offset=after,
            limit=size,
            filter=filter_of(condition),
            with_payload=list(keys) if keys else True,
            with_vector=False,
        )
        with engine_errors():
            points, following = self._shard.scroll(request)
        return [point.payload or {} for point in points], None if following is None else str(following)

    def records(self, after: str | None, size: int) -> tuple[list[Record], str | None]:
        request = edge.ScrollRequest(offset=after, limit=size, with_payload=True, with_vector=True)
        with engine_errors():
            points, following = self._shard.scroll(request)
        records = [Record(NewDocument.from_payload(p.payload or {}), self._vectors_of(p.vector)) for p in points]
        return records, None if following is None else str(following)

    def count(self, condition: Condition | None) -> int:
        with engine_errors():
            return self._shard.count(edge.CountRequest(exact=True, filter=filter_of(condition)))

    def search(self, sub_queries: Sequence[SubQuery]) -> list[list[tuple[str, float]]]:
        in_files = [self._multi_vectors is not None and query.using == "multi_vector" for query in sub_queries]
        requests = [request_of(query) for query, mine in zip(sub_queries, in_files, strict=True) if not mine]
        with self._searching, engine_errors():
            answers = iter(self._shard.query_batch(edge.QueryBatchRequest(requests)) if requests else [])
        return [
            self._max_sim(query) if mine else [(str(point.id), point.score) for point in next(answers)]
            for query, mine in zip(sub_queries, in_files, strict=True)
        ]

    def flush(self) -> None:
        with engine_errors():
            self._shard.flush()
        self._optimizer.start_if_due()

    def close(self) -> None:
        if not self._optimizer.stopped and self._optimizer.stop():
            with self._lock.write():  # after the last search
                if self._multi_vectors is not None:
                    self._multi_vectors.close()
                gone = self._folder.is_gone
                try:
                    with engine_errors():
                        self._current.shard.close()
                except StorageError:
                    if not gone:
                        raise
                    _logger.warning("the index in %s was closed after its files were removed", self._folder.path)

    def optimize(self) -> None:
        """Build the search graphs on a copy in a separate process, and switch to the copy.

        Searches continue throughout; writes wait while the files are copied and during the switch.

        Raises:
            DiskFullError: There is not enough disk space for a copy.
            StorageError: The process failed; the index is unchanged.
        """
        self._folder.check_exists()
        self._optimizer.start().result()

    def copy_files(self, folder: Folder, manifest: Manifest) -> bool:
        """Copy the index to this folder. Searches continue meanwhile; writes wait.

        Raises:
            DiskFullError: There is not enough disk space.
        """
        with self._lock.snapshot():
            shard = folder.begin()
            copy_shard(self._current, shard, folder, times=1)
            sync(shard)
            if self._multi_vectors is not None:
                folder.check_room(disk_use(self._folder.multi_vectors))
                copy_folder(self._folder.multi_vectors, folder.multi_vectors)
                sync(folder.multi_vectors)
            folder.complete(shard, manifest, self._folder.optimized_points())
        return True

    def write_manifest(self, manifest: Manifest) -> None:
        self._folder.write_manifest(manifest)

    def _room_for(self, records: Sequence[Record]) -> int:
        """Return the bytes that storing these records takes at most."""
        size, coded = sum(record.size for record in records), 0
        if self._multi_vectors is not None:
            for vectors in _multi_vectors_of(records).values():
                size -= vectors.nbytes
                coded += len(vectors) * self._multi_vectors.row_bytes
        return 2 * size + coded  # the engine's log contains a second copy of every vector, in float32

    def _store_multi_vectors(self, records: Sequence[Record]) -> dict[str, Place]:
        """Store the records' multi-vectors if they belong in files, and return their places by point."""
        if self._multi_vectors is None:
            return {}
        found = _multi_vectors_of(records)
        return dict(zip(found, self._multi_vectors.add(list(found.values())), strict=True))

    def _vectors_of(self, stored: Any) -> Vectors:
        """Return all vectors of a stored point."""
        vectors = vectors_from(stored or {})
        if self._multi_vectors is not None and stored and PLACE in stored:
            vectors["multi_vector"] = self._multi_vectors.at(place_of(stored))
        return vectors

    def _max_sim(self, query: SubQuery) -> list[tuple[str, float]]:
        """Score points by their multi-vectors in files."""
        assert self._multi_vectors is not None
        assert query.among is not None
        with self._searching, engine_errors():
            stored = self._shard.retrieve(list(query.among), with_payload=False, with_vector=[PLACE])
        places = {str(point.id): place_of(point.vector) for point in stored if point.vector}
        return self._multi_vectors.scores(np.asarray(query.vector, np.float32), places)[: query.limit]

    @property
    def _shard(self) -> edge.EdgeShard:
        self._folder.check_exists()
        return self._current.shard

    def _update(self, operation: edge.UpdateOperation) -> None:
        with engine_errors():
            self._shard.update(operation)


def _multi_vectors_of(records: Sequence[Record]) -> dict[str, NDArray[np.float32]]:
    """Return the multi-vectors of records that have some, by point."""
    found = {record.document.point: record.vectors.get("multi_vector") for record in records}
    return {point: vectors for point, vectors in found.items() if isinstance(vectors, np.ndarray)}
