"""Rows with finished vectors, read for an index: the Parquet files that `bge embed` and `EmbeddingJob` write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from bge_integrations.errors import InvalidInputError, WrongModelError
from bge_integrations.jobs.inputs import InputFile, find_inputs
from bge_integrations.jobs.vectors import METADATA_KEY, VECTOR_COLUMNS
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder

#: Columns whose values become the documents' ids; the first one that exists.
_IDS = ("id", "_id")
#: Settings of an embedder that its vectors depend on.
_SETTINGS = ("weights", "pooling", "instruction", "max_length", "dimension")
#: Rows read at a time; the multi-vectors of one row take megabytes.
_ROWS, _ROWS_WITH_MULTI_VECTORS = 256, 64


@dataclass(frozen=True, eq=False)
class Documents:
    """Arguments of `M3Index.add`."""

    texts: list[str]
    ids: list[str | None] | None
    metadatas: list[dict[str, Any]]
    embeddings: Embeddings


class EmbeddedRows:
    """The rows of Parquet files with vectors. Their texts, ids ("id" or "_id") and other columns become documents.

    Args:
        inputs: Files, folders, patterns and URLs of .parquet files.

    Attributes:
        model: The name of the model that computed the vectors.
        representations: Those that the files have.

    Raises:
        InvalidInputError: A file has no vectors, does not say what computed them, or differs from the first; its
            columns can't be metadata; or an id occurs twice.
    """

    def __init__(self, inputs: str | Sequence[str]) -> None:
        self._files = find_inputs(inputs)
        self._note, self._schema = _described(self._files[0])
        self.model: str = self._note["model"]
        self.representations = [name for name in ("dense", "sparse", "multi_vector") if name in self._schema.names]
        for file in self._files[1:]:
            note, schema = _described(file)
            different = [name for name in (*_SETTINGS, "kind", "field") if note.get(name) != self._note.get(name)]
            if different or not schema.equals(self._schema):
                raise _error(
                    f"{file.url} differs from {self._files[0].url} in {', '.join(different) or 'its columns'}",
                    "index them one after the other",
                )
        self._id = next((name for name in _IDS if name in self._schema.names), None)
        self._others = [n for n in self._schema.names if n not in (self._note["field"], self._id, *VECTOR_COLUMNS)]
        self._check_types()
        self._rows = self._check_ids()

    def __len__(self) -> int:
        return self._rows

    def check(self, embedder: Embedder, needed: Sequence[str]) -> None:
        """Check that an embedder would compute the same vectors, and that those needed are there.

        Raises:
            WrongModelError: Another model or other settings computed them.
            InvalidInputError: A representation is missing.
        """
        instruction = "" if self._note["kind"] in (None, "none") else self._note["instruction"]
        theirs, ours = {**self._note, "instruction": instruction}, embedder.vector_settings("passage")
        if theirs["weights"] != ours["weights"]:
            raise WrongModelError(
                f"the vectors were computed by {self.model}, whose weights are not those of {embedder.name}, the "
                "index's model",
                advice="compute them with the index's model, or make a new index with theirs",
            )
        for name in _SETTINGS:
            if theirs[name] != ours[name]:
                raise WrongModelError(
                    f"the vectors were computed with {name}={theirs[name]!r}, but the index's model has {ours[name]!r}",
                    advice="compute them with the same settings, as passages",
                )
        if missing := [name for name in needed if name not in self.representations]:
            raise _error(
                f"the files have no {' and '.join(missing)} vectors, which the index stores",
                "compute them too: bge embed --sparse --multi-vector",
            )

    def documents(self, embedder: Embedder) -> Iterator[Documents]:
        """Yield the rows, a few dozen at a time, with vectors as wide as the embedder's.

        Raises:
            InvalidInputError: A text or a vector is missing, or a vector has another width.
        """
        size = _ROWS_WITH_MULTI_VECTORS if "multi_vector" in self.representations else _ROWS
        for file in self._files:
            with file.open() as stream, pq.ParquetFile(stream) as opened:
                for batch in opened.iter_batches(size):
                    yield self._documents(batch, embedder, file.url)

    def _documents(self, batch: pa.RecordBatch, embedder: Embedder, url: str) -> Documents:
        used = [self._note["field"], *(name for name in VECTOR_COLUMNS if name in self._schema.names)]
        for name in used:
            if batch.column(name).null_count:
                raise _error(f"a row of {url} has no {name}", "embed the rows again")
        ids = None if self._id is None else [None if i is None else str(i) for i in batch.column(self._id).to_pylist()]
        others = batch.select(self._others).to_pylist() if self._others else [{}] * batch.num_rows
        return Documents(
            batch.column(self._note["field"]).to_pylist(),
            ids,
            [{name: value for name, value in row.items() if value is not None} for row in others],
            self._embeddings(batch, embedder),
        )

    def _embeddings(self, batch: pa.RecordBatch, embedder: Embedder) -> Embeddings:
        dense = _matrix(batch.column("dense"), embedder.dimension)
        if "dense_scale" in self._schema.names:
            dense *= batch.column("dense_scale").to_numpy()[:, None]
        sparse = multi_vector = None
        if "sparse" in self.representations:
            indices, values = batch.column("sparse").flatten()
            sparse = SparseVectors(
                _numbers(indices).astype(np.int32),
                _numbers(values).astype(np.float32),
                _offsets(indices),
                embedder.vocabulary_size,
            )
        if "multi_vector" in self.representations:
            column = batch.column("multi_vector")
            vectors = _matrix(column.flatten(), embedder.multi_vector_dimension)
            multi_vector = MultiVectors(vectors, _offsets(column))
        return Embeddings(dense, sparse, multi_vector)

    def _check_types(self) -> None:
        if pa.types.is_fixed_size_binary(self._schema.field("dense").type):
            raise _error("the dense vectors are one bit per number", "embed the rows with --precision int8 or more")
        for name in self._others:
            if not _is_json(self._schema.field(name).type):
                raise _error(
                    f"the column {name!r} contains {self._schema.field(name).type}, which can't be metadata",
                    "convert it to strings or numbers, or drop it",
                )

    def _check_ids(self) -> int:
        """Return the number of rows, after a check that no id occurs twice."""
        rows, seen = 0, set[str]()
        for file in self._files:
            with file.open() as stream, pq.ParquetFile(stream) as opened:
                rows += opened.metadata.num_rows
                for batch in opened.iter_batches(columns=[self._id]) if self._id else ():
                    for value in batch.column(0).to_pylist():
                        if value is not None and str(value) in seen:
                            raise _error(f"the id {str(value)!r} occurs twice", "give every row a unique id")
                        seen.add(str(value))
        return rows


def _described(file: InputFile) -> tuple[dict[str, Any], pa.Schema]:
    """Return what a file says about its vectors, and its columns."""
    if file.format != "parquet":
        raise _error(f"{file.url} is not a Parquet file", "write Parquet with bge embed")
    try:
        with file.open() as stream:
            schema = pq.read_schema(stream)
    except pa.ArrowInvalid as error:
        raise _error(f"{file.url} is damaged ({error})", "embed the rows again") from error
    try:
        note = json.loads((schema.metadata or {}).get(METADATA_KEY, "null"))
    except ValueError:
        note = None
    if not isinstance(note, dict) or not {*_SETTINGS, "model", "kind", "field"} <= note.keys():
        raise _error(
            f"{file.url} does not say which model computed its vectors", "make it with `bge embed` of this release"
        )
    if lacking := {note["field"], "dense"}.difference(schema.names):
        raise _error(f"{file.url} has no column {' and '.join(sorted(lacking))}", "embed the rows again")
    return note, schema.remove_metadata()


def _is_json(kind: pa.DataType) -> bool:
    """Return whether values of this type are str, int, float, bool, None, or lists and dicts of these."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    if types.is_struct(kind):
        return all(_is_json(kind.field(i).type) for i in range(kind.num_fields))
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    return types.is_null(kind) or any(test(kind) for test in tests)


def _matrix(lists: pa.Array, width: int) -> NDArray[np.float32]:
    """Return lists of numbers as float32 (n, width)."""
    fixed = pa.types.is_fixed_size_list(lists.type)
    if (lists.type.list_size != width) if fixed else (np.diff(lists.offsets) != width).any():
        raise _error(f"a vector does not have {width} dimensions", "embed the rows again")
    values: NDArray[np.float32] = _numbers(lists).astype(np.float32)
    return values.reshape(len(lists), width)


def _numbers(lists: pa.Array) -> NDArray[Any]:
    """Return the numbers in lists, one list after the other."""
    numbers: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
    return numbers


def _offsets(lists: pa.Array) -> NDArray[np.int64]:
    ends: NDArray[np.int64] = lists.offsets.to_numpy().astype(np.int64)
    ends -= ends[0]
    return ends


def _error(finding: str, advice: str) -> InvalidInputError:
    return InvalidInputError(finding, argument="inputs", advice=advice)
