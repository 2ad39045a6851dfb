"""Arrays as JSON and as safetensors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from fastapi import Response

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.outputs import Embeddings, SparseVector

#: From this many numbers on, an answer is written in a thread, row by row, so that other requests are not held up.
_LARGE = 100_000


def json_response(content: Any) -> Response:
    """Return JSON; numpy arrays and `orjson.Fragment` may be in it."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


async def json_rows(rows: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> list[orjson.Fragment]:
    """Return each array as a piece of JSON."""
    size = rows.size if isinstance(rows, np.ndarray) else sum(row.size for row in rows)
    if size < _LARGE:
        return _fragments(rows)
    return await asyncio.to_thread(_fragments, rows)


def _fragments(rows: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> list[orjson.Fragment]:
    option = orjson.OPT_SERIALIZE_NUMPY
    return [orjson.Fragment(orjson.dumps(np.ascontiguousarray(row), option=option)) for row in rows]


def base64_floats(row: NDArray[np.float32]) -> str:
    """Return a vector as base64 of its little-endian float32 numbers, as OpenAI does."""
    return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode()


def sparse_json(vector: SparseVector) -> dict[str, Any]:
    """Return a sparse vector as {indices, values}."""
    return {"indices": vector.indices, "values": vector.values}


def safetensors_response(encoded: Embeddings, metadata: dict[str, str]) -> Response:
    """Return all outputs as tensors: dense, sparse_{indptr,indices,values}, multi_vector and multi_vector_indptr."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {}
    if encoded.dense is not None:
        tensors["dense"] = encoded.dense
    if encoded.sparse is not None:
        tensors["sparse_indptr"] = encoded.sparse.offsets
        tensors["sparse_indices"] = encoded.sparse.indices
        tensors["sparse_values"] = encoded.sparse.values
    if encoded.multi_vector is not None:
        tensors["multi_vector"] = encoded.multi_vector.vectors
        tensors["multi_vector_indptr"] = encoded.multi_vector.offsets
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return Response(save(contiguous, metadata), media_type="application/vnd.safetensors")
