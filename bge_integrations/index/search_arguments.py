"""The arguments of a search, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from bge_integrations.scoring import Mode, Representation, Weights, weights_by_name
from bge_integrations.validation import check_choice, check_whole_number

if TYPE_CHECKING:
    from bge_integrations.index.filters import Condition, Filter

Fusion = Literal["weighted", "rrf"]

#: More than any index contains, but within the 64-bit integers of engines.
_MAX_CANDIDATES = 2**40
_PROPOSING: tuple[Representation, ...] = ("dense", "sparse")


class SearchSettings(TypedDict, total=False):
    """The keywords of `M3Index.search`, which documents them."""

    mode: Mode
    weights: Weights
    fusion: Fusion
    filter: Filter | None
    candidates: int


@dataclass(frozen=True)
class Search:
    """The checked arguments of a search.

    Attributes:
        k: Maximum number of hits.
        weights: Weights of the representations that make up the score, each above 0.
        fusion: Their weighted mean, or reciprocal rank fusion.
        condition: A filter on the metadata.
        candidates: Number of candidates from each representation in `proposing`.
        proposing: The representations that candidates are retrieved by.
    """

    k: int
    weights: Mapping[Representation, float]
    fusion: Fusion
    condition: Condition | None
    candidates: int
    proposing: tuple[Representation, ...]

    @classmethod
    def of(
        cls,
        k: int,
        condition: Condition | None = None,
        *,
        mode: Mode = "hybrid",
        weights: Weights = (1.0, 1.0, 1.0),
        fusion: Fusion = "weighted",
        candidates: int = 200,
    ) -> Search:
        check_whole_number(k, "k")
        check_choice(mode, "mode", get_args(Mode))
        check_choice(fusion, "fusion", get_args(Fusion))
        check_whole_number(candidates, "candidates")
        chosen = weights_by_name(weights) if mode == "hybrid" else {mode: 1.0}
        # searching multi-vectors would take too long, so they only score candidates from dense and sparse search
        proposing = _PROPOSING if "multi_vector" in chosen else tuple(chosen)
        return cls(
            k=k,
            weights=chosen,
            fusion=fusion,
            condition=condition,
            candidates=min(max(k, candidates) if len(proposing) > 1 else k, _MAX_CANDIDATES),
            proposing=proposing,
        )

    @property
    def needed(self) -> frozenset[Representation]:
        """The representations of the query that this search needs."""
        return frozenset(self.weights) | frozenset(self.proposing)
