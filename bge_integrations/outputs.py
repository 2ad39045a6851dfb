"""The results of an embedder: dense vectors, sparse vectors and multi-vectors, packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: FlagEmbedding's keys, and the attribute that has the same vectors here.
_FLAG_EMBEDDING_NAMES = {"dense_vecs": "dense", "lexical_weights": "sparse", "colbert_vecs": "multi_vector"}


class Token(NamedTuple):
    """One token of a text, as the model sees it.

    Attributes:
        id: The token's id: a column of the sparse vectors.
        text: The characters of the text that it stands for, or the tokenizer's own name for it if there are none.
        start, stop: `text[start:stop]` are these characters; None for special tokens and for tokens of an instruction.
        is_special: Whether it is a special token, which has no lexical weight.
    """

    id: int
    text: str
    start: int | None
    stop: int | None
    is_special: bool


class SparseVector(NamedTuple):
    """Lexical weights of one text.

    Attributes:
        indices: int32 (n,), token ids, ascending.
        values: float32 (n,), weights > 0.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, indices: Sequence[int], values: Sequence[float]) -> SparseVector:
        """Return the vector with these weights, in any order."""
        ids = np.asarray(indices, np.int32)
        order = np.argsort(ids)
        return cls(ids[order], np.asarray(values, np.float32)[order])

    def __repr__(self) -> str:
        return f"SparseVector({len(self.indices)} weights)"

    def to_dict(self) -> dict[int, float]:
        """Return {token id: weight}."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class SparseVectors:
    """Lexical weights of several texts, as rows of a compressed sparse matrix.

    Attributes:
        indices: int32 (nonzeros,), token ids, ascending in each row.
        values: float32 (nonzeros,), weights > 0.
        offsets: int64 (n + 1,), row i is `indices[offsets[i]:offsets[i + 1]]`.
        size: Number of columns: the tokenizer's vocabulary.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    offsets: NDArray[np.int64]
    size: int

    @classmethod
    def from_rows(cls, rows: list[SparseVector], size: int) -> SparseVectors:
        return cls(
            indices=np.concatenate([r.indices for r in rows]) if rows else np.empty(0, np.int32),
            values=np.concatenate([r.values for r in rows]) if rows else np.empty(0, np.float32),
            offsets=_offsets([len(r.indices) for r in rows]),
            size=size,
        )

    def __repr__(self) -> str:
        return f"SparseVectors({len(self)} texts, {len(self.values)} weights)"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> SparseVector:
        span = _span(self.offsets, i)
        return SparseVector(self.indices[span], self.values[span])

    def __iter__(self) -> Iterator[SparseVector]:
        return (self[i] for i in range(len(self)))

    def to_scipy(self) -> Any:
        """Return a `scipy.sparse.csr_array` of shape (n, size), float32."""
        from scipy.sparse import csr_array

        return csr_array((self.values, self.indices, self.offsets), shape=(len(self), self.size))

    def to_dicts(self) -> list[dict[int, float]]:
        """Return one {token id: weight} per text."""
        return [row.to_dict() for row in self]


@dataclass(frozen=True, eq=False)
class MultiVectors:
    """Multi-vectors of several texts, concatenated: one unit vector per token except the first (CLS).

    Attributes:
        vectors: float32 (tokens of all texts, dim).
        offsets: int64 (n + 1,), text i is `vectors[offsets[i]:offsets[i + 1]]`.
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @classmethod
    def from_rows(cls, rows: list[NDArray[np.float32]], dim: int) -> MultiVectors:
        vectors = np.concatenate(rows) if rows else np.empty((0, dim), np.float32)
        return cls(vectors, _offsets([len(r) for r in rows]))

    def __repr__(self) -> str:
        return f"MultiVectors({len(self)} texts, {len(self.vectors)} vectors of {self.vectors.shape[1]})"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        return self.vectors[_span(self.offsets, i)]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The result of `Embedder.encode`. Representations that were not requested are None.

    Attributes:
        dense: float32 (n, dim), unit rows.
        sparse: Lexical weights.
        multi_vector: One unit vector per token.
    """

    dense: NDArray[np.float32] | None = None
    sparse: SparseVectors | None = None
    multi_vector: MultiVectors | None = None

    def __getitem__(self, key: object) -> NoReturn:
        name = _FLAG_EMBEDDING_NAMES.get(key) if isinstance(key, str) else None
        use = name or ", ".join(name for name in ("dense", "sparse", "multi_vector") if getattr(self, name) is not None)
        raise TypeError(f"Embeddings hold the vectors in attributes; use .{use.replace(', ', ', .')}")

    def __repr__(self) -> str:
        dense = None if self.dense is None else f"float32 {self.dense.shape}"
        parts = {"dense": dense, "sparse": self.sparse, "multi_vector": self.multi_vector}
        return f"Embeddings({', '.join(f'{name}={part}' for name, part in parts.items() if part is not None)})"


def to_lists(rows: NDArray[np.float32]) -> list[list[float]]:
    """Return the rows as lists, converted one by one: `tolist` of a large array would block all other threads."""
    return [row.tolist() for row in rows]


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _span(offsets: NDArray[np.int64], i: int) -> slice:
    n = len(offsets) - 1
    if not -n <= i < n:
        raise IndexError(f"index {i} is out of range for {n} texts")
    i %= n
    return slice(int(offsets[i]), int(offsets[i + 1]))
