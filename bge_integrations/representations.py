"""The representations of a text, and the modes of search that use them: types without numpy, for quick commands."""

from __future__ import annotations

from typing import Literal, get_args

Representation = Literal["dense", "sparse", "multi_vector"]
#: The scores that passages are ranked by.
Mode = Literal["dense", "sparse", "multi_vector", "hybrid"]
#: The weights of dense, sparse and multi-vector scores in a hybrid score.
Weights = tuple[float, float, float]
REPRESENTATIONS: tuple[Representation, ...] = get_args(Representation)
