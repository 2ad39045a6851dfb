"""The storage engine for folders: Qdrant Edge, in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import qdrant_edge as edge

from bge_integrations.errors import StorageError
from bge_integrations.index.edge_types import (
    FIELD_TYPES,
    config_of,
    engine_errors,
    filter_of,
    point_to_store,
    request_of,
)
from bge_integrations.index.files import sync
from bge_integrations.index.filters import json_path, key_of
from bge_integrations.index.optimizing import CurrentShard, Optimizer, copy_shard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import FieldKind, SubQuery
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.records import NewDocument, Record

_logger = logging.getLogger(__name__)
#: More distinct strings than a key has.
_MAX_TEXTS = 2**31


class EdgeEngine:
    """An `Engine` on a folder. Every call holds the GIL, so batches must be small.

    Args:
        folder: The folder, which must stay locked for as long as the engine exists.
        manifest: The settings of a new shard; None opens the shard in the folder.
        lock: The lock that callers hold for searches and writes; the optimiser uses it, too.
    """

    largest_request = 4 << 20
    queries_at_once = 1  # larger batches are not faster, and hold the lock longer

    def __init__(self, folder: Folder, manifest: Manifest | None, lock: ReadWriteLock) -> None:
        self._folder = folder
        self._lock = lock
        with engine_errors():
            if manifest is None:
                path = folder.shard()
                self._current = CurrentShard(path, edge.EdgeShard.load(str(path)))
                folder.remove_shards(keep=path)
            else:
                folder.check_room(0)
                path = folder.begin()
                path.mkdir()
                self._current = CurrentShard(path, edge.EdgeShard.create(str(path), config_of(manifest)))
                folder.complete(path, manifest)
        self._optimizer = Optimizer(folder, lock, self._current, abs(self.count(None) - folder.optimized_points()))

    def write(self, records: Sequence[Record]) -> None:
        # the engine's log contains a second copy of every vector, in float32
        self._folder.check_room(2 * sum(record.size for record in records))
        self._optimizer.note_changes(record.document.point for record in records)
        self._update(edge.UpdateOperation.upsert_points([point_to_store(record) for record in records]))

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
        with engine_errors():
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

    def count(self, condition: Condition | None) -> int:
        with engine_errors():
            return self._shard.count(edge.CountRequest(exact=True, filter=filter_of(condition)))

    def search(self, sub_queries: Sequence[SubQuery]) -> list[list[tuple[str, float]]]:
        requests = [request_of(sub_query) for sub_query in sub_queries]
        with engine_errors():
            answers = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return [[(str(point.id), point.score) for point in answer] for answer in answers]

    def flush(self) -> None:
        with engine_errors():
            self._shard.flush()
        self._optimizer.start_if_due()

    def close(self) -> None:
        if not self._optimizer.stopped and self._optimizer.stop():
            with self._lock.write():  # after the last search
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

    def copy_to(self, folder: Folder, manifest: Manifest) -> None:
        """Copy the index to this folder. Searches continue meanwhile; writes wait.

        Raises:
            DiskFullError: There is not enough disk space.
        """
        with self._lock.snapshot():
            shard = folder.begin()
            copy_shard(self._current, shard, folder, times=1)
            sync(shard)
            folder.complete(shard, manifest, self._folder.optimized_points())

    def write_manifest(self, manifest: Manifest) -> None:
        self._folder.write_manifest(manifest)

    @property
    def _shard(self) -> edge.EdgeShard:
        self._folder.check_exists()
        return self._current.shard

    def _update(self, operation: edge.UpdateOperation) -> None:
        with engine_errors():
            self._shard.update(operation)
