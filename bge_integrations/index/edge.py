"""Qdrant Edge: the engine in this process, on a folder."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import qdrant_edge as edge

from bge_integrations.errors import ClosedError, DiskFullError, StorageError
from bge_integrations.index import optimize_shard
from bge_integrations.index.files import copy_folder, disk_use, sync
from bge_integrations.index.filters import AllOf, AnyOf, Between, Matches, Missing, Not, json_path, key_of
from bge_integrations.index.records import point_of, to_payload
from bge_integrations.outputs import SparseVector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import FieldKind, Leg
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.records import Entry, Record

#: Searching this many points one by one takes about 4 ms at 1024 dimensions; beyond, a graph is worth its time.
_UNOPTIMIZED_POINTS = 20_000
#: Points that changed while a copy was optimised are carried over so many at a time, searches in between.
_CARRIED = 8

_FIELDS: dict[FieldKind, edge.PayloadSchemaType] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}
_log = logging.getLogger(__name__)


class EdgeEngine:
    """An `Engine` on a folder. Every call holds Python's interpreter while it runs: milliseconds, by small batches.

    Args:
        folder: Held alone, and for longer than the engine.
        manifest: For a new shard; None opens the one in the folder.
        lock: Searches share it, writes have it alone; the optimiser needs it too.
    """

    largest_write = 4 << 20

    def __init__(self, folder: Folder, manifest: Manifest | None, lock: ReadWriteLock) -> None:
        self._folder = folder
        self._lock = lock
        with _engine_errors():
            if manifest is None:
                self._path = folder.shard()
                self._shard = edge.EdgeShard.load(str(self._path))
                folder.remove_shards(but=self._path)
            else:
                folder.check_room(0)
                self._path = folder.begin()
                self._path.mkdir()
                self._shard = edge.EdgeShard.create(str(self._path), _config(manifest))
                folder.complete(self._path, manifest)
        self._unoptimized = abs(self.count(None) - folder.optimized_points())
        self._changed: set[str] | None = None  # points written while a copy is being optimised
        self._optimizing = threading.Lock()
        self._optimizer: int | None = None  # the thread
        self._closed = threading.Event()

    def write(self, records: Sequence[Record]) -> None:
        # the log holds every vector once more, in float32
        self._folder.check_room(2 * sum(record.size for record in records))
        self._note(record.point for record in records)
        self._update(edge.UpdateOperation.upsert_points([_point(record) for record in records]))

    def write_payloads(self, entries: Sequence[Entry]) -> None:
        self._folder.check_room(8 * sum(len(entry.text) for entry in entries))
        self._note(point_of(entry.id) for entry in entries)
        for entry in entries:
            self._update(edge.UpdateOperation.overwrite_payload([point_of(entry.id)], to_payload(entry)))

    def remove(self, points: Sequence[str]) -> None:
        self._note(points)
        self._update(edge.UpdateOperation.delete_points(list(points)))

    def index_field(self, key: str, kind: FieldKind) -> None:
        self._update(edge.UpdateOperation.create_field_index(json_path((key,)), _FIELDS[kind]))

    def indexed_fields(self) -> dict[str, FieldKind]:
        kinds = {schema: kind for kind, schema in _FIELDS.items()}
        with _engine_errors():
            fields = self._shard.info().payload_schema
        return {key_of(path): kinds[field.data_type] for path, field in fields.items()}

    def fetch(self, points: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        with _engine_errors():
            found = self._shard.retrieve(list(points), with_payload=list(keys) if keys else True, with_vector=False)
        return {str(point.id): point.payload or {} for point in found}

    def dense_vectors(self, points: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        with _engine_errors():
            found = self._shard.retrieve(list(points), with_payload=False, with_vector=["dense"])
        return {str(point.id): np.asarray(point.vector["dense"], np.float32) for point in found}  # type: ignore[call-overload,index]

    def page(
        self, condition: Condition | None, after: str | None, size: int, keys: Sequence[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        request = edge.ScrollRequest(
            offset=after,
            limit=size,
            filter=_filter(condition),
            with_payload=list(keys) if keys else True,
            with_vector=False,
        )
        with _engine_errors():
            found, following = self._shard.scroll(request)
        return [point.payload or {} for point in found], None if following is None else str(following)

    def count(self, condition: Condition | None) -> int:
        with _engine_errors():
            return self._shard.count(edge.CountRequest(exact=True, filter=_filter(condition)))

    def search(self, legs: Sequence[Leg]) -> list[list[tuple[str, float]]]:
        requests = [
            edge.QueryRequest(
                limit=leg.limit,
                query=edge.Query.Nearest(_vector(leg.vector), using=leg.using),
                filter=_filter(leg.condition, leg.among),
                params=edge.SearchParams(
                    hnsw_ef=leg.breadth,
                    exact=leg.exact or leg.among is not None,
                    quantization=edge.QuantizationSearchParams(rescore=True),
                ),
                with_payload=False,
                with_vector=False,
            )
            for leg in legs
        ]
        with _engine_errors():
            answers = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return [[(str(point.id), point.score) for point in answer] for answer in answers]

    def flush(self) -> None:
        with _engine_errors():
            self._shard.flush()
        enough = max(_UNOPTIMIZED_POINTS, self._folder.optimized_points() // 4)
        if self._unoptimized >= enough and not self._optimizing.locked():
            self._optimize_in_thread().add_done_callback(_log_failure)

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        if self._optimizer == threading.get_ident():  # the garbage collector closes an index wherever it happens to run
            return
        with self._optimizing, self._lock.alone(), _engine_errors():  # when optimiser and searches have ended
            self._shard.close()

    def optimize(self) -> None:
        """Build the search graphs on a copy, in a process of its own, and go over to the copy.

        Searches go on all the time; writes wait while the files are copied and at the change-over.

        Raises:
            DiskFullError: There is no room for a copy.
            StorageError: The process failed; the index is as it was.
        """
        self._optimize_in_thread().result()

    def _optimize_in_thread(self) -> Future[None]:
        """A thread of its own, in the foreground too: a Ctrl-C amid the change-over would lose the index."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                self._optimize()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=run, name="bge-optimize", daemon=True).start()
        return done

    def _optimize(self) -> None:
        with self._optimizing:
            self._optimizer = threading.get_ident()
            if self._closed.is_set():
                raise ClosedError("the index was closed; open it again")
            self._unoptimized = 0
            copy = self._folder.new_shard()
            try:
                with self._lock.unchanging():
                    self._copy(copy, self._folder, times=2)
                    self._changed = set()
                self._run_optimizer(copy)
                sync(copy)
                self._go_over(copy)
            except BaseException:
                if self._path != copy:
                    shutil.rmtree(copy, ignore_errors=True)
                raise
            finally:
                self._changed = None
                self._optimizer = None

    def copy_to(self, folder: Folder, manifest: Manifest) -> None:
        """Make this folder an index with the same documents. Searches go on meanwhile, writes wait.

        Raises:
            DiskFullError: There is no room.
        """
        with self._lock.unchanging():
            shard = folder.begin()
            self._copy(shard, folder, times=1)
            sync(shard)
            folder.complete(shard, manifest, self._folder.optimized_points())

    def _copy(self, shard: Path, folder: Folder, times: int) -> None:
        """Copy the shard's files into a folder that has room for them several times."""
        with _engine_errors():
            self._shard.flush()
        folder.check_room(times * disk_use(self._path))
        copy_folder(self._path, shard)

    def _run_optimizer(self, shard: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-P", optimize_shard.__file__, str(shard), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for this process alone
        )
        at_exit = weakref.finalize(self, process.kill)
        try:
            while True:
                try:
                    _, problem = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if self._closed.is_set():
                        raise ClosedError("the index was closed while it was being optimised") from None
        finally:
            at_exit()  # no more than a kill of what has ended, where all went well
            process.wait()
        if process.returncode:
            raise StorageError(f"optimising failed ({process.returncode}): {problem.decode(errors='replace')[-500:]}")

    def _go_over(self, path: Path) -> None:
        """Use the optimised copy, with what has changed since it was made."""
        assert self._changed is not None
        with _engine_errors():
            shard = edge.EdgeShard.load(str(path))
            while len(self._changed) > _CARRIED:
                if self._closed.is_set():
                    raise ClosedError("the index was closed while it was being optimised")
                with self._lock.shared():
                    self._carry_over([self._changed.pop() for _ in range(_CARRIED)], shard)
            with self._lock.alone():
                self._carry_over(list(self._changed), shard)  # few: what was written since the last look
                self._carry_fields_over(shard)
                shard.flush()
                old, former = self._path, self._shard
                try:
                    self._folder.switch(path, shard.count(edge.CountRequest()))
                finally:  # where only the last step of it failed, the next opening takes the copy; so must writes
                    if self._folder.shard() == path:
                        self._path, self._shard = path, shard
            former.close()
        shutil.rmtree(old, ignore_errors=True)

    def _carry_over(self, points: Sequence[str], shard: edge.EdgeShard) -> None:
        if not points:
            return
        found = self._shard.retrieve(list(points), with_payload=True, with_vector=True)
        gone = set(points).difference(str(point.id) for point in found)
        if found:
            copies = [edge.Point(point.id, point.vector, point.payload) for point in found]  # type: ignore[arg-type]
            shard.update(edge.UpdateOperation.upsert_points(copies))
        if gone:
            shard.update(edge.UpdateOperation.delete_points(list(gone)))

    def _carry_fields_over(self, shard: edge.EdgeShard) -> None:
        there = shard.info().payload_schema
        for path, field in self._shard.info().payload_schema.items():
            if path not in there:
                shard.update(edge.UpdateOperation.create_field_index(path, field.data_type))

    def _update(self, operation: edge.UpdateOperation) -> None:
        with _engine_errors():
            self._shard.update(operation)

    def _note(self, points: Iterator[str] | Sequence[str]) -> None:
        changed = set(points)
        self._unoptimized += len(changed)
        if self._changed is not None:
            self._changed |= changed


def _log_failure(done: Future[None]) -> None:
    """Tell of an optimisation in the background that failed."""
    error = done.exception()
    if isinstance(error, DiskFullError):
        _log.warning("the index was not optimised, searches are slower: %s", error)
    elif error is not None and not isinstance(error, ClosedError):
        _log.error("the index was not optimised, searches are slower", exc_info=error)


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Whatever the engine raises becomes a StorageError: bare exceptions, and panics, which are no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise StorageError(f"the storage engine failed: {error}") from error
        raise


def _config(manifest: Manifest) -> edge.EdgeConfig:
    int8 = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned)
    vectors = {
        "dense": edge.EdgeVectorParams(
            size=manifest.dimension,
            distance=edge.Distance.Dot,
            quantization_config=int8 if manifest.quantization == "int8" else None,
        )
    }
    if manifest.multi_vectors != "recompute":
        float16, float32 = edge.VectorStorageDatatype.Float16, edge.VectorStorageDatatype.Float32
        vectors["multi_vector"] = edge.EdgeVectorParams(
            size=manifest.multi_vector_dimension,
            distance=edge.Distance.Dot,
            datatype=float16 if manifest.multi_vectors == "float16" else float32,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=0),  # no graph: only rescored
            memory=edge.Memory.Cold,
        )
    return edge.EdgeConfig(vectors=vectors, sparse_vectors={"sparse": edge.EdgeSparseVectorParams()})


def _point(record: Record) -> edge.Point:
    vectors = {"dense": _vector(record.dense), "sparse": _vector(record.sparse)}
    if record.multi_vector is not None:
        vectors["multi_vector"] = _vector(record.multi_vector)
    return edge.Point(record.point, vectors, to_payload(record.entry))


def _vector(vector: NDArray[np.float32] | SparseVector) -> Any:
    if isinstance(vector, SparseVector):
        return edge.SparseVector(vector.indices.tolist(), vector.values.tolist())
    # the engine reads number by number: a memoryview gives floats, an array objects of numpy's, three times as slowly
    return vector.data if vector.ndim == 1 else [row.data for row in vector]


def _filter(condition: Condition | None, among: Sequence[str] | None = None) -> edge.Filter | None:
    must: list[Any] = [] if condition is None else [_translate(condition)]
    if among is not None:
        must.append(edge.HasIdCondition(set(among)))
    return edge.Filter(must=must) if must else None


class _Truth:
    """A bool to the engine, which takes Python's own for the whole number that it also is.

    It looks for a bool of numpy's by its name; numpy's own were whole numbers too before 2.3.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Truth.__module__, _Truth.__name__ = "numpy", "bool_"


def _translate(condition: Condition) -> Any:
    match condition:
        case AllOf(conditions):
            return edge.Filter(must=[_translate(part) for part in conditions])
        case AnyOf(()):
            return edge.HasIdCondition(set())
        case AnyOf(conditions):
            return edge.Filter(should=[_translate(part) for part in conditions])
        case Not(inner):
            return edge.Filter(must_not=[_translate(inner)])
        case Missing(path):
            return edge.IsEmptyCondition(json_path(path))
        case Matches(path, (bool(value),)):
            return edge.FieldCondition(json_path(path), match=edge.MatchValue(_Truth(value)))  # type: ignore[arg-type]
        case Matches(path, (int(value),)):
            return edge.FieldCondition(json_path(path), match=edge.MatchValue(value))
        case Matches(path, values):
            return edge.FieldCondition(json_path(path), match=edge.MatchAny([str(value) for value in values]))
        case Between(path, gt, gte, lt, lte):
            bounds = {"gt": gt, "gte": gte, "lt": lt, "lte": lte}
            if any(isinstance(bound, datetime) for bound in bounds.values()):
                dates = {name: bound.isoformat() for name, bound in bounds.items() if isinstance(bound, datetime)}
                return edge.FieldCondition(json_path(path), range=edge.RangeDateTime(**dates))
            return edge.FieldCondition(json_path(path), range=edge.RangeFloat(**bounds))  # type: ignore[arg-type]
