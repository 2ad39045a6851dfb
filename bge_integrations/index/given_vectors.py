"""Checks of finished vectors that are added with their texts: they must have the right shapes and be the model's."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.errors import InvalidInputError, WrongModelError
from bge_integrations.index.vectors import vectors_of
from bge_integrations.outputs import Embeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.records import NewDocument
    from bge_integrations.index.vectors import Vectors
    from bge_integrations.outputs import MultiVectors, SparseVectors

#: Maximum deviation of a dense vector's length from 1. Eight bits per number cost less than a thousandth.
_LENGTH_ERROR = 0.01
#: Minimum cosine of a vector with what the model computes now. Precisions and devices cost less than a hundredth.
_SAME_MODEL = 0.98


def checked_vectors(embeddings: object, texts: object, manifest: Manifest) -> list[Vectors]:
    """Check finished vectors, and return those that the index stores, one item per text.

    Raises:
        InvalidInputError: They don't fit the texts or the index.
    """
    if not isinstance(embeddings, Embeddings):
        raise _error(f"must be Embeddings, got {type(embeddings).__name__}", "pass what Embedder.encode returns")
    if not isinstance(texts, Sized):
        raise _error("need as many texts", f"pass the texts as a list, not as {type(texts).__name__}")
    stored = {name: getattr(embeddings, name) for name in manifest.stored}
    if missing := [name for name, part in stored.items() if part is None]:
        raise _error(
            f"lack {' and '.join(missing)} vectors, which the index stores",
            f"encode the texts with {', '.join(f'{name}=True' for name in missing)}",
        )
    for name, part in stored.items():
        if len(part) != len(texts):
            raise _error(f"have {len(part)} {name} vectors for {len(texts)} texts", "pass one of each per text")
    _check_dense(stored["dense"], manifest.dimension)
    if "sparse" in stored:
        _check_sparse(stored["sparse"], manifest.vocabulary_size)
    if "multi_vector" in stored:
        _check_multi_vectors(stored["multi_vector"], manifest.multi_vector_dimension)
    kept = Embeddings(**stored)
    return [vectors_of(kept, i) for i in range(len(texts))]


def check_same_model(document: NewDocument, computed: Embeddings, manifest: Manifest) -> None:
    """Raise WrongModelError unless a document's finished vector is nearly the one that the model computes."""
    assert document.vectors is not None
    assert computed.dense is not None
    cosine = float(np.dot(np.asarray(document.vectors["dense"]), computed.dense[0]))
    if cosine < _SAME_MODEL:
        raise WrongModelError(
            f"the embedding of {document.text!r:.80} is not what {manifest.model}, the index's model, computes for it "
            f"(their cosine is {cosine:.3f})",
            argument="embeddings",
            advice='encode the texts with this model and kind="passage", or leave embeddings out',
        )


def _check_dense(dense: NDArray[np.float32], dimension: int) -> None:
    _check_numbers(dense, "dense", dimension)
    lengths = np.linalg.norm(dense, axis=1)
    if (wrong := np.flatnonzero(np.abs(lengths - 1) > _LENGTH_ERROR)).size:
        raise _error(
            f"have a dense vector of length {lengths[wrong[0]]:.3g} (row {wrong[0]})", "scale them to unit length"
        )


def _check_sparse(sparse: SparseVectors, vocabulary_size: int) -> None:
    _check_offsets(sparse.offsets, len(sparse.indices), "sparse")
    if len(sparse.values) != len(sparse.indices) or sparse.indices.dtype != np.int32:
        raise _error("have sparse vectors whose indices are not int32, or not one per value", "see SparseVectors")
    if len(sparse.indices):
        if sparse.indices.min() < 0 or sparse.indices.max() >= vocabulary_size:
            raise _error(f"have a token id outside of the vocabulary of {vocabulary_size}", "use the index's own model")
        if sparse.values.dtype != np.float32 or not np.isfinite(sparse.values).all() or sparse.values.min() <= 0:
            raise _error("have sparse weights that are not float32 above 0", "leave out tokens without a weight")
        starts = np.zeros(len(sparse.indices), bool)
        starts[sparse.offsets[:-1][np.diff(sparse.offsets) > 0]] = True
        if not (np.diff(sparse.indices) > 0)[~starts[1:]].all():
            raise _error("have sparse vectors whose token ids do not ascend", "sort them, and merge repeated ones")


def _check_multi_vectors(multi_vector: MultiVectors, width: int) -> None:
    _check_numbers(multi_vector.vectors, "multi-vector", width)
    _check_offsets(multi_vector.offsets, len(multi_vector.vectors), "multi-vector")
    if (empty := np.flatnonzero(np.diff(multi_vector.offsets) == 0)).size:
        raise _error(f"have no multi-vectors in row {empty[0]}", "pass at least one per text")


def _check_numbers(vectors: NDArray[np.float32], name: str, width: int) -> None:
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2:
        raise _error(f"have {name}s that are not a float32 array with two dimensions", "convert them with numpy")
    if vectors.shape[1] != width:
        raise _error(
            f"have {name}s of {vectors.shape[1]} dimensions, but the index's have {width}", "use the index's own model"
        )
    if not np.isfinite(vectors).all():
        raise _error(f"have {name}s that are not finite", "encode the texts again")


def _check_offsets(offsets: NDArray[np.int64], end: int, name: str) -> None:
    if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise _error(f"have {name} offsets that do not fit their rows", "build them with from_rows")


def _error(finding: str, advice: str) -> InvalidInputError:
    return InvalidInputError(f"the embeddings {finding}", argument="embeddings", advice=advice)
