"""The vectors of one text, by representation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_integrations.scoring import REPRESENTATIONS, Representation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bge_integrations.outputs import Embeddings, SparseVector

#: Dense float32 (dimension,), a SparseVector, and multi-vectors float32 (tokens, width); some can be missing.
Vectors = dict[Representation, "NDArray[np.float32] | SparseVector"]


def vectors_of(encoded: Embeddings, i: int) -> Vectors:
    """Return the vectors of text i."""
    parts = {name: getattr(encoded, name) for name in REPRESENTATIONS}
    return {name: part[i] for name, part in parts.items() if part is not None}


def size_of(vectors: Vectors) -> int:
    """Return the size of a text's vectors in bytes."""
    return sum(
        sum(array.nbytes for array in vector) if isinstance(vector, tuple) else vector.nbytes
        for vector in vectors.values()
    )
