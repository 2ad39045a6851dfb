"""What M3Index asks of a storage engine."""

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
    from bge_integrations.index.records import Entry, Record
    from bge_integrations.outputs import SparseVector
    from bge_integrations.scoring import Representation

#: What a metadata key is indexed as, so that filters on it are fast.
FieldKind = Literal["keyword", "float", "bool"]


@dataclass(frozen=True, eq=False)
class Leg:
    """One search in one representation.

    Attributes:
        using: The representation.
        vector: float32 (dimension,), a SparseVector, or float32 (tokens, width).
        limit: How many points to find at most.
        condition: On their metadata.
        among: Only these points.
        breadth: How many neighbours an approximate search keeps in sight.
        exact: Look at every point. Searches `among` points always do.
    """

    using: Representation
    vector: NDArray[np.float32] | SparseVector
    limit: int
    condition: Condition | None = None
    among: Sequence[str] | None = None
    breadth: int | None = None
    exact: bool = False


class Engine(Protocol):
    """Stores records under points (UUIDs).

    Attributes:
        largest_write: About how many bytes of records one `write` should have.
    """

    largest_write: int

    def write(self, records: Sequence[Record]) -> None:
        """Add records; those with known ids replace what was there, vectors and payload."""

    def write_payloads(self, entries: Sequence[Entry]) -> None:
        """Replace the payloads of documents that are there, and keep their vectors."""

    def remove(self, points: Sequence[str]) -> None:
        """Delete these points; unknown ones are passed over."""

    def index_field(self, key: str, kind: FieldKind) -> None:
        """Make filters on this key of the metadata fast."""

    def indexed_fields(self) -> dict[str, FieldKind]:
        """The keys for which that was done."""

    def fetch(self, points: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """The payloads, or these keys of them, of the points that are there."""

    def dense_vectors(self, points: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The dense vectors of the points that are there."""

    def page(
        self, condition: Condition | None, after: str | None, size: int, keys: Sequence[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Payloads in the order of the points, from `after` on, and where the next page begins (None at the end)."""

    def count(self, condition: Condition | None) -> int:
        """How many points there are."""

    def search(self, legs: Sequence[Leg]) -> list[list[tuple[str, float]]]:
        """For each leg its points and scores, best first.

        Scores are dot products; of multi-vectors the sum over the query's vectors of the highest dot product.
        """

    def optimize(self) -> None:
        """Build what makes searches fast, and wait for it."""

    def copy_to(self, folder: Folder, manifest: Manifest) -> None:
        """Make this folder an index with the same documents."""

    def flush(self) -> None:
        """Return when all that was written is on disk."""

    def close(self) -> None:
        """Flush and let go; a second call does nothing."""
