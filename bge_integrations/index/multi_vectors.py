"""The multi-vectors of an index in a folder: coded, in files, and scored by max-sim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.index.codes import codec_of
from bge_integrations.index.max_sim import MaxSim
from bge_integrations.index.vector_files import PlacedRows, VectorFiles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bge_integrations.index.codes import Code
    from bge_integrations.index.vector_files import Place


class MultiVectors:
    """Adds multi-vectors and scores them. Callers hold the index's lock: shared to score, exclusively to add.

    Args:
        folder: The folder of the files.
        code: How to store a token's vector.
        width: The width of the vectors.
        create: Create the folder.

    Attributes:
        files: The files.
        row_bytes: Bytes per token.
    """

    def __init__(self, folder: Path, code: Code, width: int, create: bool) -> None:
        self._codec = codec_of(code, width)
        self.row_bytes = self._codec.row_bytes
        self.files = VectorFiles(folder, self.row_bytes, create)
        self._max_sim = MaxSim(self._codec)

    def add(self, documents: Sequence[NDArray[np.float32]]) -> list[Place]:
        """Store the multi-vectors of documents, (tokens, width) each, and return their places once they are on disk."""
        return self.files.append(self._max_sim.map(self._codec.encode, documents))

    def at(self, place: Place) -> NDArray[np.float32]:
        """Return a document's multi-vectors, (tokens, width), as exact as they are stored."""
        return self._codec.decode(self.files.rows_at(place))

    def scores(self, query: NDArray[np.float32], places: Mapping[str, Place]) -> list[tuple[str, float]]:
        """Return the points and their max-sim, the sum over the tokens of the query (tokens, width), best first."""
        if not places:
            return []
        points = sorted(places, key=places.__getitem__)
        scores = self._max_sim.scores(query, PlacedRows(self.files, [places[point] for point in points]))
        return [(points[i], float(scores[i])) for i in np.argsort(-scores, kind="stable").tolist()]

    def close(self) -> None:
        self._max_sim.close()
