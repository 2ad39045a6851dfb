"""This package, with a separate pass for each of bge-m3's three outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peers import ours


class ThreeOutputs(ours.ThreeOutputs):
    def passages(self, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        dense = self._model.encode(texts).dense
        sparse = self._model.encode(texts, dense=False, sparse=True).sparse
        multi_vector = self._model.encode(texts, dense=False, multi_vector=True).multi_vector
        assert dense is not None
        assert sparse is not None
        assert multi_vector is not None
        return dense, sparse.to_scipy().toarray(), multi_vector.vectors
