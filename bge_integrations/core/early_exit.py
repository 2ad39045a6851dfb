"""After how many layers an LLM reranker stops, and how much it compresses passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from bge_integrations.models.profile import RerankerProfile

_RATIOS = (1, 2, 4, 8)
_COMPRESS_LAYERS = (8,)


@dataclass(frozen=True)
class EarlyExit:
    """How much of an LLM reranker is computed.

    Attributes:
        cutoffs: Score after each of these numbers of layers, in the requested order; if empty, after the last layer.
        compression: (layer, ratio) pairs, ascending: before that layer, merge every `ratio` passage states into one.
    """

    cutoffs: tuple[int, ...] = ()
    compression: tuple[tuple[int, int], ...] = ()

    @property
    def layers(self) -> int | None:
        """Number of layers to compute; None for all."""
        return max(self.cutoffs, default=None)

    @classmethod
    def of(
        cls,
        profile: RerankerProfile,
        cutoff_layers: int | Sequence[int] | None,
        compress_ratio: int | None,
        compress_layers: int | Sequence[int] | None,
    ) -> EarlyExit:
        """Check the arguments of `load_reranker` against the model.

        Raises:
            InvalidInputError: They do not fit the model.
        """
        if cutoff_layers is not None and not profile.cutoffs:
            raise InvalidInputError(
                f"{profile.name} has scores after its last layer only",
                argument="cutoff_layers",
                advice="leave cutoff_layers= out",
            )
        if not (compress_ratio is None and compress_layers is None) and not profile.compresses:
            raise InvalidInputError(
                f"{profile.name} can't compress passages",
                argument="compress_layers" if compress_ratio is None else "compress_ratio",
                advice="leave compress_ratio= and compress_layers= out",
            )
        cutoffs = _check_numbers("cutoff_layers", profile.cutoffs[-1:] if cutoff_layers is None else cutoff_layers)
        wrong = [cutoff for cutoff in cutoffs if cutoff not in profile.cutoffs]
        if cutoff_layers is not None and not cutoffs:
            raise InvalidInputError(
                "cutoff_layers=[] is empty",
                argument="cutoff_layers",
                advice="leave it out to score after the last layer",
            )
        if wrong or len(set(cutoffs)) < len(cutoffs):
            raise InvalidInputError(
                f"cutoff_layers={cutoff_layers!r}: {profile.name} has scores after "
                f"{', '.join(map(str, profile.cutoffs))} layers",
                argument="cutoff_layers",
                advice="use each of them at most once",
            )
        if compress_ratio is not None and (type(compress_ratio) is not int or compress_ratio not in _RATIOS):
            raise InvalidInputError(
                f"compress_ratio={compress_ratio!r} is not one of {', '.join(map(str, _RATIOS))}",
                argument="compress_ratio",
            )
        if compress_ratio is None and compress_layers is not None:
            raise InvalidInputError(
                "compress_layers= does nothing without compress_ratio=",
                argument="compress_layers",
                advice="set compress_ratio to 2, 4 or 8",
            )
        ratio = compress_ratio or 1
        if ratio == 1 and compress_layers is None:
            return cls(cutoffs)
        layers = _check_numbers("compress_layers", _COMPRESS_LAYERS if compress_layers is None else compress_layers)
        if not layers or not all(0 <= layer < profile.cutoffs[-1] for layer in layers):
            raise InvalidInputError(
                f"compress_layers={list(layers)} must be among the layers 0 to {profile.cutoffs[-1] - 1}",
                argument="compress_layers",
            )
        if ratio > 1 and min(layers) >= max(cutoffs):
            raise InvalidInputError(
                f"compress_layers={list(layers)} has no effect, because scoring stops after {max(cutoffs)} layers",
                argument="compress_layers",
                advice="use a lower layer",
            )
        return cls(cutoffs, tuple((layer, ratio) for layer in sorted(set(layers))) if ratio > 1 else ())


def _check_numbers(argument: str, numbers: int | Sequence[int]) -> tuple[int, ...]:
    checked: tuple[Any, ...] = (numbers,)
    if isinstance(numbers, Sequence) and not isinstance(numbers, (str, bytes)):
        checked = tuple(numbers)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in checked):
        raise InvalidInputError(f"{argument}={numbers!r} must be a whole number or a list of these", argument=argument)
    return checked
