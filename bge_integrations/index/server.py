"""The storage engine on a Qdrant server or cluster, with the same schema, points and searches as in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from grpc import RpcError  # type: ignore[import-untyped]
    from qdrant_client import QdrantClient, models
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException
except ImportError as error:
    raise ImportError("an index on a Qdrant server needs its client: pip install 'qdrant-client>=1.16'") from error

from bge_integrations.errors import IndexFormatError, InvalidInputError, StorageError
from bge_integrations.index.filters import AllOf, AnyOf, Between, IsPoint, Matches, Missing, Not, json_path, key_of
from bge_integrations.index.manifest import Manifest
from bge_integrations.index.records import NewDocument, Record
from bge_integrations.outputs import SparseVector
from bge_integrations.scoring import REPRESENTATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.engine import FieldKind, SubQuery
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.vectors import Vectors

_FIELDS: dict[FieldKind, models.PayloadSchemaType] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "float": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
}
#: Seconds to wait for a response.
_TIMEOUT = 60
#: More distinct strings than a key has.
_MAX_TEXTS = 2**31
#: The manifest's key in the collection's metadata.
_MANIFEST = "bge_integrations"


def connect(url: str, name: str, api_key: str | None, owned: ExitStack) -> Collection:
    """Connect to a server and return the collection with this name."""
    with _server_errors(url):
        client = QdrantClient(url=url, api_key=api_key, timeout=_TIMEOUT, check_compatibility=False)
        owned.callback(client.close)
        client.get_collections()  # so that a wrong address fails here
    return Collection(client, name)


class Collection:
    """A collection on a Qdrant server that stores an index."""

    def __init__(self, client: QdrantClient, name: str) -> None:
        if not isinstance(client, QdrantClient):
            raise InvalidInputError(
                f"an index can't be opened from {type(client).__name__}",
                advice="pass a folder, a URL or a QdrantClient",
            )
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"collection={name!r} is not a name", argument="collection", advice="pass a str")
        self.client = client
        self.name = name
        options = client.init_options
        self.is_local = options.get("location") == ":memory:" or options.get("path") is not None
        self.location = f"{options.get('url') or options.get('host') or options.get('location')}/{name}"

    def manifest(self) -> Manifest | None:
        """Return the index's manifest; None if the collection does not exist."""
        with _server_errors(self.location):
            if not self.client.collection_exists(self.name):
                return None
            metadata = self.client.get_collection(self.name).config.metadata or {}
        if _MANIFEST not in metadata:
            raise IndexFormatError(
                f"the collection {self.name!r} is not an M3Index", advice="pass another name as collection="
            )
        return Manifest.read(metadata[_MANIFEST], f"the metadata of {self.location}")

    def create(self, manifest: Manifest, complete: bool = True) -> None:
        """Create the collection. It is an index at once if it is complete, and otherwise after `write_manifest`."""
        metadata = {_MANIFEST: manifest.to_dict()} if complete else None
        with _server_errors(self.location):
            self.client.create_collection(self.name, **_schema(manifest), metadata=metadata)
        if complete and self.manifest() is None:
            self.client.delete_collection(self.name)
            raise StorageError(
                "the server does not store collection metadata", advice="upgrade it to Qdrant 1.16 or newer"
            )

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest in the collection's metadata."""
        with _server_errors(self.location):
            self.client.update_collection(self.name, metadata={_MANIFEST: manifest.to_dict()})

    def remove(self) -> None:
        """Delete the collection."""
        with _server_errors(self.location):
            self.client.delete_collection(self.name)


class QdrantEngine:
    """An `Engine` on a server.

    Args:
        collection: The collection.
        manifest: The settings of a new collection; None opens an existing one.
    """

    largest_request = 1 << 20
    queries_at_once = 32

    def __init__(self, collection: Collection, manifest: Manifest | None) -> None:
        if manifest is not None:
            collection.create(manifest)
        self._collection = collection
        self._client = collection.client
        self._name = collection.name

    def write(self, records: Sequence[Record]) -> None:
        with self._errors():
            self._client.upsert(self._name, [_point(record) for record in records], wait=True)

    def write_payloads(self, documents: Sequence[NewDocument]) -> None:
        with self._errors():
            for document in documents:
                self._client.overwrite_payload(self._name, document.payload, [document.point], wait=True)

    def remove(self, points: Sequence[str]) -> None:
        with self._errors():
            self._client.delete(self._name, list(points), wait=True)

    def index_field(self, key: str, kind: FieldKind) -> None:
        if not self._collection.is_local:  # which ignores it with a warning
            with self._errors():
                self._client.create_payload_index(self._name, json_path((key,)), _FIELDS[kind], wait=True)

    def indexed_fields(self) -> dict[str, FieldKind]:
        kinds = {schema: kind for kind, schema in _FIELDS.items()}
        with self._errors():
            fields = self._client.get_collection(self._name).payload_schema
        return {key_of(path): kinds[field.data_type] for path, field in fields.items() if field.data_type in kinds}

    def texts(self, key: str) -> list[str]:
        with self._errors():
            answer = self._client.facet(self._name, json_path((key,)), limit=_MAX_TEXTS, exact=True, timeout=_TIMEOUT)
        return [hit.value for hit in answer.hits if isinstance(hit.value, str)]

    def fetch(self, points: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        with self._errors():
            stored = self._client.retrieve(self._name, list(points), with_payload=list(keys) if keys else True)
        return {str(point.id): point.payload or {} for point in stored}

    def dense_vectors(self, points: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        with self._errors():
            stored = self._client.retrieve(self._name, list(points), with_payload=False, with_vectors=["dense"])
        vectors = {str(point.id): point.vector for point in stored}
        return {
            i: np.asarray(named["dense"], np.float32)
            for i, named in vectors.items()
            if isinstance(named, dict) and "dense" in named
        }

    def page(
        self, condition: Condition | None, after: str | None, size: int, keys: Sequence[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        with self._errors():
            points, following = self._client.scroll(
                self._name,
                scroll_filter=_filter(condition),
                limit=size,
                offset=after,
                with_payload=list(keys) if keys else True,
            )
        return [point.payload or {} for point in points], None if following is None else str(following)

    def records(self, after: str | None, size: int) -> tuple[list[Record], str | None]:
        with self._errors():
            points, following = self._client.scroll(
                self._name, limit=size, offset=after, with_payload=True, with_vectors=True
            )
        records = [Record(NewDocument.from_payload(p.payload or {}), _vectors_from(p.vector)) for p in points]
        return records, None if following is None else str(following)

    def count(self, condition: Condition | None) -> int:
        with self._errors():
            return self._client.count(self._name, _filter(condition), exact=True).count

    def search(self, sub_queries: Sequence[SubQuery]) -> list[list[tuple[str, float]]]:
        requests = [
            models.QueryRequest(
                query=_vector(sub_query.vector),
                using=sub_query.using,
                limit=sub_query.limit,
                filter=_filter(sub_query.condition, sub_query.among),
                params=None if self._collection.is_local else _params(sub_query),
                with_payload=False,
                with_vector=False,
            )
            for sub_query in sub_queries
        ]
        with self._errors():
            answers = self._client.query_batch_points(self._name, requests)
        return [[(str(point.id), point.score) for point in answer.points] for answer in answers]

    def optimize(self) -> None:
        """Do nothing: the server optimises by itself."""

    def write_manifest(self, manifest: Manifest) -> None:
        self._collection.write_manifest(manifest)

    def copy_files(self, folder: Folder, manifest: Manifest) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing: the server acknowledges a write once it is in its log."""

    def close(self) -> None:
        """Do nothing: whoever created the client closes it."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with _server_errors(self._collection.location):
            yield


@contextmanager
def _server_errors(location: str) -> Iterator[None]:
    try:
        yield
    except (ResponseHandlingException, RpcError) as error:
        raise StorageError(
            f"{location} does not respond ({error})", advice="check the address and that the server is running"
        ) from error
    except (ApiException, ValueError) as error:
        raise StorageError(f"{location} rejected the request: {error}") from error


def _schema(manifest: Manifest) -> dict[str, Any]:
    int8 = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    )
    vectors = {
        "dense": models.VectorParams(
            size=manifest.dimension,
            distance=models.Distance.DOT,
            quantization_config=int8 if manifest.quantization == "int8" else None,
        )
    }
    if "multi_vector" in manifest.stored:
        float16, float32 = models.Datatype.FLOAT16, models.Datatype.FLOAT32
        vectors["multi_vector"] = models.VectorParams(
            size=manifest.multi_vector_dimension,
            distance=models.Distance.DOT,
            datatype=float16 if manifest.multi_vectors == "float16" else float32,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),  # no graph: multi-vectors only score candidates
            on_disk=True,
        )
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": {"sparse": models.SparseVectorParams()} if "sparse" in manifest.stored else None,
        "on_disk_payload": True,
    }


def _point(record: Record) -> models.PointStruct:
    vectors = {str(name): _vector(vector) for name, vector in record.vectors.items()}
    return models.PointStruct(id=record.document.point, vector=vectors, payload=record.document.payload)


def _vectors_from(stored: Any) -> Vectors:
    """Return the vectors of a stored point."""
    vectors: Vectors = {}
    for name in REPRESENTATIONS:
        if isinstance(vector := (stored or {}).get(name), models.SparseVector):
            vectors[name] = SparseVector.of(vector.indices, vector.values)
        elif vector is not None:
            vectors[name] = np.asarray(vector, np.float32)
    return vectors


def _params(sub_query: SubQuery) -> models.SearchParams:
    return models.SearchParams(
        hnsw_ef=sub_query.ef_search,
        exact=sub_query.exact or sub_query.among is not None,
        quantization=models.QuantizationSearchParams(rescore=True),
    )


def _vector(vector: NDArray[np.float32] | SparseVector) -> Any:
    if isinstance(vector, SparseVector):
        return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector.tolist()


def _filter(condition: Condition | None, among: Sequence[str] | None = None) -> models.Filter | None:
    must: list[Any] = [] if condition is None else [_translate(condition)]
    if among is not None:
        must.append(models.HasIdCondition(has_id=list(among)))
    return models.Filter(must=must) if must else None


def _translate(condition: Condition) -> Any:
    match condition:
        case AllOf(conditions):
            return models.Filter(must=[_translate(part) for part in conditions])
        case AnyOf(()):
            return models.HasIdCondition(has_id=[])
        case AnyOf(conditions):
            return models.Filter(should=[_translate(part) for part in conditions])
        case Not(inner):
            return models.Filter(must_not=[_translate(inner)])
        case Missing(path):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=json_path(path)))
        case IsPoint(points):
            return models.HasIdCondition(has_id=list(points))
        case Matches(path, (value,)):
            return models.FieldCondition(key=json_path(path), match=models.MatchValue(value=value))
        case Matches(path, values):
            return models.FieldCondition(key=json_path(path), match=models.MatchAny(any=[str(v) for v in values]))
        case Between(path, gt, gte, lt, lte):
            bounds: dict[str, Any] = {"gt": gt, "gte": gte, "lt": lt, "lte": lte}
            dated = any(isinstance(bound, datetime) for bound in bounds.values())
            kind = models.DatetimeRange if dated else models.Range
            return models.FieldCondition(key=json_path(path), range=kind(**bounds))
