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
        condition: A filter on the metadata.
        among: Search only these points.
        ef_search: Number of neighbours that an approximate (HNSW) search keeps track of.
        exact: Compare with every point, as a search `among` points always does.
    """

    using: Representation
    vector: NDArray[np.float32] | SparseVector
    limit: int
    condition: Condition | None = None
    among: Sequence[str] | None = None
    ef_search: int | None = None
    exact: bool = False


class Engine(Protocol):
    """A storage engine, which stores records as points identified by UUIDs.

    Attributes:
        largest_request: Recommended maximum bytes of vectors and texts per call.
        queries_at_once: Recommended maximum number of queries per `search`, each with its sub-queries.
    """

    largest_request: int
    queries_at_once: int

    def write(self, records: Sequence[Record]) -> None:
        """Add records, or replace the vectors and payloads of existing points."""

    def write_payloads(self, documents: Sequence[NewDocument]) -> None:
        """Replace the payloads of existing points, and keep their vectors."""

    def remove(self, points: Sequence[str]) -> None:
        """Delete these points; unknown ones are ignored."""

    def index_field(self, key: str, kind: FieldKind) -> None:
        """Build an index for filters on this metadata key."""

    def indexed_fields(self) -> dict[str, FieldKind]:
        """Return the metadata keys that have an index, with its kind."""

    def texts(self, key: str) -> list[str]:
        """Return the distinct strings at a metadata key with a "keyword" index, including elements of lists."""

    def fetch(self, points: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the payloads of existing points, or only these keys of the payloads."""

    def dense_vectors(self, points: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the dense vectors of existing points that have one."""

    def page(
        self, condition: Condition | None, after: str | None, size: int, keys: Sequence[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of payloads, starting at point `after`, and where the next page starts (None at the end)."""

    def records(self, after: str | None, size: int) -> tuple[list[Record], str | None]:
        """Return a page of documents with their vectors, decoded if they are stored as codes; see `page`."""

    def count(self, condition: Condition | None) -> int:
        """Return the number of points that match."""

    def search(self, sub_queries: Sequence[SubQuery]) -> list[list[tuple[str, float]]]:
        """Return the points and scores of each sub-query, best first.

        Scores are dot products; for multi-vectors, each query vector's highest dot product, summed (max-sim).
        """

    def optimize(self) -> None:
        """Build the search graphs, and wait until they are done."""

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the index's manifest."""

    def copy_files(self, folder: Folder, manifest: Manifest) -> bool:
        """Copy the index's files to this folder, and return True; False if it has no files."""

    def flush(self) -> None:
        """Wait until everything written is on disk."""

    def close(self) -> None:
        """Flush and release the files. A second call does nothing."""
