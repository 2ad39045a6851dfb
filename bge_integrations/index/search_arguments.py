"""The arguments of a search, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

from bge_integrations.errors import InvalidInputError
from bge_integrations.scoring import REPRESENTATIONS, Mode, Representation, Weights, weights_by_name
from bge_integrations.validation import check_choice, check_whole_number

if TYPE_CHECKING:
    from bge_integrations.index.filters import Condition, Filter

Fusion = Literal["weighted", "min_max", "z_score", "rrf"]

#: More than any index contains, but within the 64-bit integers of engines.
_MAX_CANDIDATES = 2**40
#: Number of candidates from dense and from sparse search if nobody says otherwise.
_CANDIDATES = 200
_PROPOSING: tuple[Representation, ...] = ("dense", "sparse")


class DefaultSettings(TypedDict, total=False):
    """The keywords of `M3Index.search` that an index can keep defaults for."""

    mode: Mode | None
    weights: Weights | None
    fusion: Fusion | None
    candidates: int | None


class SearchSettings(DefaultSettings, total=False):
    """The keywords of `M3Index.search`, which documents them. None means the index's default."""

    filter: Filter | None


#: The defaults of a new index.
NO_DEFAULTS: DefaultSettings = {"mode": None, "weights": None, "fusion": None, "candidates": None}


@dataclass(frozen=True)
class SearchDefaults:
    """What searches of an index use unless they say otherwise, as `M3Index.search` describes it.

    Attributes:
        mode: The scores to rank by.
        weights: Weights of the dense, sparse and multi-vector scores in "hybrid".
        fusion: How "hybrid" combines them.
        candidates: Number of candidates from dense and from sparse search.
    """

    mode: Mode
    weights: Weights
    fusion: Fusion
    candidates: int

    @classmethod
    def of(
        cls, held: Sequence[Representation], kept: DefaultSettings, **given: Unpack[DefaultSettings]
    ) -> SearchDefaults:
        """Return the settings of a search: those given, otherwise those that the index keeps, otherwise the usual ones.

        Args:
            held: The representations of the index.
            kept: The defaults that the index keeps.
            given: What the caller chose.

        Raises:
            InvalidInputError: A setting is invalid, or the index does not hold a representation that it needs.
        """
        mode, weights = given.get("mode"), given.get("weights")
        if mode is None:  # weights have no effect in other modes
            mode = "hybrid" if weights is not None else kept.get("mode") or _modes_of(held)[0]
        check_choice(mode, "mode", get_args(Mode))
        if mode not in _modes_of(held):
            raise InvalidInputError(
                f"mode={mode!r} needs sparse and multi-vectors, but the index has only dense vectors, because its "
                "model computes no others",
                argument="mode",
                advice="leave mode and weights out, or make an index with BAAI/bge-m3 (or 'pocket')",
            )
        if weights is None:
            weights = kept.get("weights") or (1.0, 1.0, 1.0)
        fusion = given.get("fusion")
        if fusion is None:
            fusion = kept.get("fusion") or "weighted"
        check_choice(fusion, "fusion", get_args(Fusion))
        candidates = given.get("candidates")
        if candidates is None:
            candidates = kept.get("candidates") or _CANDIDATES
        check_whole_number(candidates, "candidates")
        return cls(mode, weights, fusion, candidates)


def checked_defaults(held: Sequence[Representation], **settings: Unpack[DefaultSettings]) -> DefaultSettings:
    """Check and return all defaults that an index is to keep, None for those that it keeps no value for.

    Raises:
        InvalidInputError: A setting is invalid, or the index does not hold a representation that it needs.
        TypeError: A setting has another name.
    """
    if unknown := settings.keys() - NO_DEFAULTS.keys():
        raise TypeError(f"there is no default for {', '.join(sorted(unknown))}")
    SearchDefaults.of(held, {}, **settings)
    weights = settings.get("weights")
    if weights is not None:
        weights_by_name(weights)
        SearchDefaults.of(held, {}, weights=weights)  # whatever the mode
        dense, sparse, multi_vector = map(float, weights)
        settings["weights"] = dense, sparse, multi_vector
    return {**NO_DEFAULTS, **settings}


def _modes_of(held: Sequence[Representation]) -> tuple[Mode, ...]:
    """Return the modes that an index can be searched by, the usual one first."""
    return ("hybrid", *held) if len(held) > 1 else tuple(held)


@dataclass(frozen=True)
class Search:
    """The checked arguments of a search.

    Attributes:
        k: Maximum number of hits.
        weights: Weights of the representations that make up the score, each above 0.
        fusion: Their weighted mean, as they are or scaled over the candidates, or reciprocal rank fusion.
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
        held: Sequence[Representation] = REPRESENTATIONS,
        kept: DefaultSettings = NO_DEFAULTS,
        **given: Unpack[DefaultSettings],
    ) -> Search:
        """Check and return the arguments of a search; see `SearchDefaults.of` for `held`, `kept` and `given`."""
        check_whole_number(k, "k")
        used = SearchDefaults.of(held, kept, **given)
        chosen = weights_by_name(used.weights) if used.mode == "hybrid" else {used.mode: 1.0}
        # searching multi-vectors would take too long, so they only score candidates from dense and sparse search
        proposing = _PROPOSING if "multi_vector" in chosen else tuple(chosen)
        return cls(
            k=k,
            weights=chosen,
            fusion=used.fusion,
            condition=condition,
            candidates=min(max(k, used.candidates) if len(proposing) > 1 else k, _MAX_CANDIDATES),
            proposing=proposing,
        )

    @property
    def needed(self) -> frozenset[Representation]:
        """The representations of the query that this search needs."""
        return frozenset(self.weights) | frozenset(self.proposing)
