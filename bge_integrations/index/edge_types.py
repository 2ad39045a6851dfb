"""Conversion of our values to Qdrant Edge's types, and of its failures to our errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import qdrant_edge as edge

from bge_integrations.errors import StorageError
from bge_integrations.index.filters import AllOf, AnyOf, Between, IsPoint, Matches, Missing, Not, json_path
from bge_integrations.index.vector_files import Place
from bge_integrations.outputs import SparseVector
from bge_integrations.scoring import REPRESENTATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import FieldKind, SubQuery
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.records import Record
    from bge_integrations.index.vectors import Vectors

#: The vector that says where a point's multi-vectors are, if they are in files. A vector, because the engine reads it
#: faster than a payload, and keeps it when the payload is replaced.
PLACE = "multi_vector_place"
#: Qdrant Edge's type for each kind of metadata index.
FIELD_TYPES: dict[FieldKind, edge.PayloadSchemaType] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn the engine's failures into StorageError: bare exceptions, and panics, which are BaseExceptions."""
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise StorageError(f"the storage engine failed: {error}") from error
        raise


def config_of(manifest: Manifest) -> edge.EdgeConfig:
    int8 = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned)
    vectors = {
        "dense": edge.EdgeVectorParams(
            size=manifest.dimension,
            distance=edge.Distance.Dot,
            quantization_config=int8 if manifest.quantization == "int8" else None,
        )
    }
    if "multi_vector" in manifest.stored:
        vectors[PLACE] = edge.EdgeVectorParams(
            size=len(Place._fields),
            distance=edge.Distance.Dot,
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=0),  # no graph
            memory=edge.Memory.Cold,  # otherwise, opening reads files of 32 MB, mostly holes, into memory
        )
    sparse_vectors = {"sparse": edge.EdgeSparseVectorParams()} if "sparse" in manifest.stored else {}
    return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse_vectors)


def point_to_store(record: Record, place: Place | None) -> edge.Point:
    """Return a record as the engine stores it, with the place of its multi-vectors if they are in files."""
    in_files = () if place is None else ("multi_vector",)
    vectors = {str(name): _vector_of(vector) for name, vector in record.vectors.items() if name not in in_files}
    if place is not None:
        vectors[PLACE] = place_vector(place)
    return edge.Point(record.document.point, vectors, record.document.payload)


def place_vector(place: Place) -> list[float]:
    return [float(number) for number in place]


def place_of(vectors: Any) -> Place:
    """Return the place among the vectors of a stored point."""
    return Place(*map(int, vectors[PLACE]))


def request_of(sub_query: SubQuery) -> edge.QueryRequest:
    return edge.QueryRequest(
        limit=sub_query.limit,
        query=edge.Query.Nearest(_vector_of(sub_query.vector), using=sub_query.using),
        filter=filter_of(sub_query.condition, sub_query.among),
        params=edge.SearchParams(
            hnsw_ef=sub_query.ef_search,
            exact=sub_query.exact or sub_query.among is not None,
            quantization=edge.QuantizationSearchParams(rescore=True),
        ),
        with_payload=False,
        with_vector=False,
    )


def _vector_of(vector: NDArray[np.float32] | SparseVector) -> Any:
    if isinstance(vector, SparseVector):
        return edge.SparseVector(vector.indices.tolist(), vector.values.tolist())
    # the engine reads one number at a time; a memoryview's floats are three times as fast as numpy's scalars
    return vector.data if vector.ndim == 1 else [row.data for row in vector]


def vectors_from(stored: Mapping[str, Any]) -> Vectors:
    """Return the vectors of a stored point, without its place."""
    vectors: Vectors = {}
    for name in REPRESENTATIONS:
        if isinstance(vector := stored.get(name), edge.SparseVector):
            vectors[name] = SparseVector.of(vector.indices, vector.values)
        elif vector is not None:
            vectors[name] = np.asarray(vector, np.float32)
    return vectors


def filter_of(condition: Condition | None, among: Sequence[str] | None = None) -> edge.Filter | None:
    must: list[Any] = [] if condition is None else [_translate(condition)]
    if among is not None:
        must.append(edge.HasIdCondition(set(among)))
    return edge.Filter(must=must) if must else None


class _EngineBool:
    """A bool that the engine recognises. It treats Python's bools as integers, and detects numpy's by type name.

    With numpy before 2.3, it treats numpy's bools as integers, too.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_EngineBool.__module__, _EngineBool.__name__ = "numpy", "bool_"


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
        case IsPoint(points):
            return edge.HasIdCondition(set(points))
        case Matches(path, (bool(value),)):
            return edge.FieldCondition(json_path(path), match=edge.MatchValue(_EngineBool(value)))  # type: ignore[arg-type]
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
