"""The interface between M3Index and a storage engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bge_integrations.index.filters import Condition
    from bge_integrations.index.folder import Folder
    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.records import NewDocument, Record
    from bge_integrations.outputs import SparseVector
    from bge_integrations.scoring import Representation

#: How a metadata key is indexed, so that filters on it are fast.
FieldKind = Literal["keyword", "float", "bool"]


@dataclass(frozen=True, eq=False)
class SubQuery:
    """A search by one representation of a query.

    Attributes:
        using: The representation.
        vector: float32 (dimension,), a SparseVector, or float32 (tokens, width).
        limit: Maximum number of points to return.
        condition: A condition on the metadata.
        among: Search only these points.
        ef_search: Number of neighbours that an approximate search keeps track of.
        exact: Compare with every point. A search `among` points always does.
    """

    using: Representation
    vector: NDArray[np.float32] | SparseVector
    limit: int
    condition: Condition | None = None
    among: Sequence[str] | None = None
    ef_search: int | None = None
    exact: bool = False


class Engine(Protocol):
    """Stores records as points, which are named by UUIDs.

    Attributes:
        largest_request: Bytes of vectors and texts that one call should carry at most.
        queries_at_once: Number of queries whose sub-queries one `search` should answer at most.
    """

    largest_request: int
    queries_at_once: int

    def write(self, records: Sequence[Record]) -> None:
        """Add records, or replace vectors and payload of the points that exist."""

    def write_payloads(self, documents: Sequence[NewDocument]) -> None:
        """Replace the payloads of points that exist, and keep their vectors."""

    def remove(self, points: Sequence[str]) -> None:
        """Delete these points; unknown ones are ignored."""

    def index_field(self, key: str, kind: FieldKind) -> None:
        """Build an index for filters on this metadata key."""

    def indexed_fields(self) -> dict[str, FieldKind]:
        """Return the metadata keys that have an index."""

    def fetch(self, points: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the payloads of the points that exist, or only these keys of the payloads."""

    def dense_vectors(self, points: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the dense vectors of the points that exist."""

    def page(
        self, condition: Condition | None, after: str | None, size: int, keys: Sequence[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return payloads in the order of the points from `after` on, and the next page's start, None at the end."""

    def count(self, condition: Condition | None) -> int:
        """Return the number of points."""

    def search(self, sub_queries: Sequence[SubQuery]) -> list[list[tuple[str, float]]]:
        """Return the points and scores of each sub-query, best first.

        Scores are dot products; for multi-vectors the sum, over the query's vectors, of the highest dot product.
        """

    def optimize(self) -> None:
        """Build the search graphs, and wait for them."""

    def copy_to(self, folder: Folder, manifest: Manifest) -> None:
        """Make this folder an index with the same documents."""

    def flush(self) -> None:
        """Return when everything written is on disk."""

    def close(self) -> None:
        """Flush and release the files. A second call does nothing."""
