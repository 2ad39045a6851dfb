"""One checked call of `encode` or `score`, on its way to the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from bge_integrations.models.interface import OutputSpec, TokenSequence

OnTruncate = Literal["warn", "error", "ignore"]
Input = TypeVar("Input", str, tuple[str, str])


@dataclass(frozen=True)
class Request(Generic[Input]):
    """What a call asks for. Inputs that occur several times are computed once.

    Attributes:
        inputs: The different texts or pairs.
        positions: For each text or pair of the call, its position in `inputs`.
        tokenize: Turns inputs into sequences and returns these with the number of inputs that were cut.
        spec: What to compute.
        on_truncate: "warn" about inputs that were cut, "error" to refuse the call before it is computed, or "ignore".
        show_progress: Whether to show a progress bar.
    """

    inputs: Sequence[Input]
    positions: Sequence[int]
    tokenize: Callable[[Sequence[Input]], tuple[list[TokenSequence], int]]
    spec: OutputSpec
    on_truncate: OnTruncate
    show_progress: bool

    @classmethod
    def of(
        cls,
        inputs: Sequence[Input],
        tokenize: Callable[[Sequence[Input]], tuple[list[TokenSequence], int]],
        spec: OutputSpec,
        on_truncate: OnTruncate,
        show_progress: bool,
    ) -> Request[Input]:
        """Make a request from checked inputs, in which some may occur several times."""
        numbers: dict[Input, int] = {}
        positions = [numbers.setdefault(each, len(numbers)) for each in inputs]
        return cls(list(numbers), positions, tokenize, spec, on_truncate, show_progress)

    @property
    def characters(self) -> int:
        """Number of characters in the different inputs."""
        return sum(len(each) if isinstance(each, str) else sum(map(len, each)) for each in self.inputs)
