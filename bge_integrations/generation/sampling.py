"""Which token comes next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from bge_integrations.errors import InvalidInputError, NonFiniteError
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from torch import Tensor


class Sampler:
    """Chooses tokens from logits: the most likely one, or one at random.

    Args:
        temperature: 0 always takes the most likely token; higher values take more of the others.
        top_p: Choose only among the most likely tokens whose probabilities add up to this.
        seed: The same seed and logits give the same tokens; None chooses anew each time.

    Raises:
        InvalidInputError: A value is out of range.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._is_greedy = _number(temperature, "temperature", 0.0, math.inf) == 0
        if _number(top_p, "top_p", 0.0, 1.0) == 0:
            raise InvalidInputError("top_p=0 leaves no token", argument="top_p", advice="use temperature=0")
        self._warpers: Any = LogitsProcessorList(
            [] if self._is_greedy else [TemperatureLogitsWarper(float(temperature))]
        )
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(float(top_p)))
        self._random = torch.Generator()
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(check_whole_number(seed, "seed", least=0, most=2**63 - 1))

    def choose(self, logits: Tensor) -> int:
        """Return the next token.

        Raises:
            NonFiniteError: The logits are NaN or infinite.
        """
        logits = logits.cpu()
        if not torch.isfinite(logits).all():
            raise NonFiniteError("the model returned NaN or infinity", advice="load it with dtype='float32'")
        if self._is_greedy:
            return int(logits.argmax())
        unused = torch.empty(1, 0, dtype=torch.long)  # these processors don't look at the ids
        probabilities = self._warpers(unused, logits[None]).softmax(-1)
        return int(torch.multinomial(probabilities[0], 1, generator=self._random))


def _number(value: object, argument: str, least: float, most: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and least <= value <= most:  # type: ignore[arg-type, operator]
        return float(value)  # type: ignore[arg-type]
    limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    raise InvalidInputError(f"{argument}={value!r} must be a number {limits}", argument=argument)
