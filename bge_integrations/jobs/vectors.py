"""Vectors as columns of Arrow tables: the schema of what jobs write.

dense         fixed_size_list<float32>[dimension], or float16, or int8 with one `dense_scale` per row, or
              fixed_size_binary[dimension / 8]
dense_scale   float32, only with int8: dense · dense_scale is the vector
sparse        struct<indices: list<int32>, values: list<float32>>: token ids, ascending, and their weights
multi_vector  list<fixed_size_list<float32>[width]>, one vector per token; float16 unless `precision` is "float32"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder, TextKind
    from bge_integrations.outputs import Embeddings

Precision = Literal["float32", "float16", "int8", "binary"]
#: The schema's metadata in which each file says what its vectors are: JSON of the embedder's settings.
METADATA_KEY = b"bge_integrations"
#: All columns that vectors can take.
VECTOR_COLUMNS = ("dense", "dense_scale", "sparse", "multi_vector")


@dataclass(frozen=True)
class VectorColumns:
    """Which representations to store, and how.

    Attributes:
        dense, sparse, multi_vector: The representations.
        precision: How dense vectors are stored. "int8" multiplies each vector by 127 / its largest absolute value and
            rounds; "binary" keeps the signs, packed into bytes, the first dimension in the highest bit, 1 for positive.

    Raises:
        InvalidInputError: No representation is chosen, or the precision is unknown.
    """

    dense: bool = True
    sparse: bool = False
    multi_vector: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_choice(self.precision, "precision", get_args(Precision))
        if not (self.dense or self.sparse or self.multi_vector):
            raise InvalidInputError("there is nothing to compute", advice="choose dense, sparse or multi_vector")

    @property
    def representations(self) -> list[str]:
        """The names of the representations."""
        chosen = {"dense": self.dense, "sparse": self.sparse, "multi_vector": self.multi_vector}
        return [name for name, wanted in chosen.items() if wanted]

    def encode(self, embedder: Embedder, texts: list[str], kind: TextKind | None) -> Embeddings:
        """Return the representations of texts.

        Raises:
            InvalidInputError: The embedder lacks one.
        """
        return embedder.encode(texts, kind=kind, dense=self.dense, sparse=self.sparse, multi_vector=self.multi_vector)

    def fields(self, embedder: Embedder) -> list[pa.Field]:
        """Return the columns with their types, for the vectors of this embedder.

        Raises:
            InvalidInputError: The embedder lacks a representation, or its dimension is not a
                multiple of 8 and `precision` is "binary".
        """
        self.encode(embedder, [], "passage")  # raises if the model does not support them
        if self.dense and self.precision == "binary" and embedder.dimension % 8:
            raise InvalidInputError(
                f"vectors of {embedder.dimension} dimensions can't be packed into bytes",
                argument="precision",
                advice="use int8",
            )
        return self._fields(embedder.dimension, embedder.multi_vector_dimension)

    @property
    def plain_fields(self) -> list[pa.Field]:
        """The columns for engines whose lists and bytes have no fixed size and that lack float16."""
        return [pa.field(field.name, _plain(field.type)) for field in self._fields(8, 8)]

    def _fields(self, dimension: int, width: int) -> list[pa.Field]:
        fields = []
        if self.dense:
            fields.append(pa.field("dense", self._dense_type(dimension)))
            if self.precision == "int8":
                fields.append(pa.field("dense_scale", pa.float32()))
        if self.sparse:
            lists = {"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())}
            fields.append(pa.field("sparse", pa.struct(lists)))
        if self.multi_vector:
            fields.append(pa.field("multi_vector", pa.list_(pa.list_(self._multi_vector_type, width))))
        return fields

    def arrays(self, encoded: Embeddings) -> dict[str, pa.Array]:
        """Return the columns' values for embeddings that were computed by `encode`."""
        arrays: dict[str, pa.Array] = {}
        if encoded.dense is not None:
            arrays |= self._dense_arrays(encoded.dense)
        if (sparse := encoded.sparse) is not None:
            offsets = sparse.offsets.astype(np.int32)
            lists = [pa.ListArray.from_arrays(offsets, pa.array(part)) for part in (sparse.indices, sparse.values)]
            arrays["sparse"] = pa.StructArray.from_arrays(lists, names=["indices", "values"])
        if (multi := encoded.multi_vector) is not None:
            values = multi.vectors.astype(self._multi_vector_type.to_pandas_dtype(), copy=False)
            vectors = _fixed_size(values)
            arrays["multi_vector"] = pa.ListArray.from_arrays(multi.offsets.astype(np.int32), vectors)
        return arrays

    def _dense_type(self, dimension: int) -> Any:
        if self.precision == "binary":
            return pa.binary(dimension // 8)
        types = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
        return pa.list_(types[self.precision], dimension)

    def _dense_arrays(self, dense: NDArray[np.float32]) -> dict[str, pa.Array]:
        match self.precision:
            case "float32":
                return {"dense": _fixed_size(dense)}
            case "float16":
                return {"dense": _fixed_size(dense.astype(np.float16))}
            case "int8":
                scale = np.maximum(np.abs(dense).max(axis=1, initial=0), np.finfo(np.float32).tiny) / 127
                values = np.rint(dense / scale[:, None]).astype(np.int8)
                return {"dense": _fixed_size(values), "dense_scale": pa.array(scale.astype(np.float32))}
            case "binary":
                packed = np.packbits(dense > 0, axis=1)
                kind = pa.binary(packed.shape[1])
                return {"dense": pa.Array.from_buffers(kind, len(packed), [None, pa.py_buffer(packed)])}

    @property
    def _multi_vector_type(self) -> Any:
        return pa.float32() if self.precision == "float32" else pa.float16()


def _fixed_size(values: NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _plain(kind: Any) -> Any:
    """Return a type with lists and bytes of any size, and with float32 instead of float16."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return pa.float32() if pa.types.is_float16(kind) else kind
