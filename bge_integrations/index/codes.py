"""How multi-vectors are stored: each token's vector as a few bytes, and the products of a query with such bytes.

| name | bytes per token | products |
|---|---|---|
| float32 | 4 × width | exact |
| float16 | 2 × width | of the rounded vector |
| int8 | width + 4 | the vector in 255 steps of its largest component |
| binary | width / 8 + 4 | one bit per dimension, as in RaBitQ (Gao and Long, 2024), with an unbiased estimate |

The products of int8 and binary codes are sums of integers, so they are the same in any batch and on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Code = Literal["float32", "float16", "int8", "binary"]

#: A query for int8 codes has 14 bits, in two parts of -64 to 63. A processor without VNNI adds two products of an
#: unsigned and a signed byte in 16 bits, and larger parts could overflow there.
_PART_BITS = 7
_QUERY_STEPS = 63 << _PART_BITS
#: Divides the length of a zero vector, instead of zero.
_TINY = float(np.finfo(np.float32).tiny)
#: Bytes of the factor behind each token's code, a float32.
_FACTOR = 4


@dataclass(frozen=True, eq=False)
class Products:
    """The products of one query with codes.

    Attributes:
        multiply: Returns the products with codes, uint8 (n, bytes), as float32 (query tokens, n), up to `scale`.
        scale: float32 (query tokens,), positive: what the products of each query token are to be multiplied by.
    """

    multiply: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    scale: NDArray[np.float32]


class Codec(Protocol):
    """A way to store vectors of a certain width.

    Attributes:
        row_bytes: Bytes per vector.
    """

    row_bytes: int

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the codes, uint8 (n, row_bytes), of vectors, (n, width)."""

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return vectors, (n, width), whose products with any query are those of the codes, (n, row_bytes)."""

    def products(self, query: NDArray[np.float32]) -> Products:
        """Return the products of a query, (tokens, width)."""


def codec_of(code: Code, width: int) -> Codec:
    """Return the codec with this name for vectors of this width."""
    match code:
        case "int8":
            return _Int8(width)
        case "binary":
            return _Binary(width)
    return _Floats(code, width)


class _Floats:
    def __init__(self, dtype: Literal["float32", "float16"], width: int) -> None:
        self._dtype = np.dtype(dtype)
        self.row_bytes = self._dtype.itemsize * width

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        import torch

        rounded = torch.from_numpy(np.ascontiguousarray(vectors)).to(getattr(torch, self._dtype.name))
        codes: NDArray[np.uint8] = rounded.numpy().view(np.uint8)
        return codes

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        return codes.view(self._dtype).astype(np.float32)

    def products(self, query: NDArray[np.float32]) -> Products:
        import torch

        columns = torch.from_numpy(np.ascontiguousarray(query.T))

        def multiply(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
            products: NDArray[np.float32] = (torch.from_numpy(codes.view(self._dtype)).float() @ columns).numpy().T
            return np.ascontiguousarray(products)

        return Products(multiply, np.ones(len(query), np.float32))


class _Int8:
    def __init__(self, width: int) -> None:
        self.row_bytes = width + _FACTOR

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        steps, size = _in_steps(vectors, 127)
        return _with_factors(steps.astype(np.int8).view(np.uint8), size)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        return codes[:, :-_FACTOR].view(np.int8) * _factors(codes)[:, None]

    def products(self, query: NDArray[np.float32]) -> Products:
        steps, size = _in_steps(query, _QUERY_STEPS)
        high = (steps + (1 << _PART_BITS - 1)) >> _PART_BITS
        parts = _padded(np.concatenate((high, steps - (high << _PART_BITS))), self.row_bytes)

        def multiply(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
            by_part = _integer_products(parts, codes.view(np.int8))
            products, low = by_part[: len(query)], by_part[len(query) :]
            products *= 1 << _PART_BITS
            products += low
            products *= _factors(codes)
            return products

        return Products(multiply, size)


class _Binary:
    """Keeps the signs of each vector after a rotation that spreads its length evenly over all dimensions.

    Let s be the signs (1 or -1) of the rotated vector x. Then s · |x|² / Σ|x| estimates x, and its product with any
    query is unbiased over random rotations.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self.row_bytes = -(-width // 8) + _FACTOR

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        rotated = _rotated(vectors)
        sums = rotated.abs().sum(dim=1)
        factors = (rotated.norm(dim=1).square() / sums.clamp(min=_TINY)).numpy()
        return _with_factors(np.packbits((rotated > 0).numpy(), axis=1), factors)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        bits = np.unpackbits(codes[:, :-_FACTOR], axis=1, count=self._width)
        signs = 2 * bits.astype(np.float32) - 1
        vectors: NDArray[np.float32] = _rotated(signs * _factors(codes)[:, None], back=True).numpy()
        return vectors

    def products(self, query: NDArray[np.float32]) -> Products:
        steps, size = _in_steps(_rotated(query).numpy(), 127)
        padded = _padded(steps, 8 * self.row_bytes)
        # with bits b, which are 0 or 1, s = 2b - 1, so that q·s = 2(q·b - Σq/2)
        half_sums = steps.sum(axis=1, dtype=np.float32, keepdims=True) / 2

        def multiply(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
            bits = np.unpackbits(codes.ravel()).reshape(len(codes), -1)  # factors too: slicing would copy
            products = _integer_products(padded, bits.view(np.int8))
            products -= half_sums
            products *= _factors(codes)
            return products

        return Products(multiply, 2 * size)


def _in_steps(vectors: NDArray[np.float32], most: int) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Return each vector as integers from -most to most, and the size of its steps, (n,)."""
    size = np.abs(vectors).max(axis=1) / np.float32(most)
    size[size == 0] = 1
    return np.rint(vectors / size[:, None]).astype(np.int16), size


def _integer_products(query: NDArray[np.int8], codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return the products of integers, (query tokens, n)."""
    import torch

    products: NDArray[np.float32] = torch._int_mm(torch.from_numpy(query), torch.from_numpy(codes).T).float().numpy()
    return products


def _with_factors(codes: NDArray[np.uint8], factors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return codes, (n, bytes), with a factor behind each, and `_factors` returns them again."""
    return np.concatenate((codes, factors[:, None].view(np.uint8)), axis=1)


def _factors(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(codes[:, -_FACTOR:]).view(np.float32)[:, 0]


def _padded(query: NDArray[np.int16], width: int) -> NDArray[np.int8]:
    """Return the query with zeros up to this width: they cancel what stands behind a code."""
    return np.pad(query.astype(np.int8), ((0, 0), (0, width - query.shape[1])))


def _rotated(vectors: NDArray[np.float32], back: bool = False) -> Tensor:
    """Return the vectors after the fixed random rotation of their width, a Kronecker product of two small ones.

    `back` reverses the rotation.
    """
    import torch

    first, second = (torch.from_numpy(part.T if back else part) for part in _rotation(vectors.shape[1]))
    count, outer, inner = len(vectors), len(first), len(second)
    half = torch.from_numpy(np.ascontiguousarray(vectors)).view(count * outer, inner) @ second
    return (first @ half.view(count, outer, inner)).view(count, outer * inner)


@lru_cache(maxsize=4)
def _rotation(width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two orthogonal matrices whose sizes multiply to `width`. They must never change: files depend on them."""
    outer = max(divisor for divisor in range(1, int(width**0.5) + 1) if width % divisor == 0)
    random = np.random.RandomState(width)  # its numbers are the same in every version of numpy
    parts = []
    for size in (outer, width // outer):
        matrix, triangle = np.linalg.qr(random.standard_normal((size, size)))
        parts.append((matrix * np.sign(np.diag(triangle))).astype(np.float32))
    return parts[0], parts[1]
