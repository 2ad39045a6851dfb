"""What the generator knows of a language model: it reads token ids into a memory and returns logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor


class Memory(Protocol):
    """What a model keeps of a text that it has read."""

    def copy(self) -> Self:
        """Return a copy that can be read on, independent of this one."""

    @property
    def bytes(self) -> int:
        """Bytes of the kept keys and values."""


class LanguageModel(Protocol):
    """A causal language model.

    Attributes:
        network: transformers' model.
    """

    network: Any

    @property
    def max_length(self) -> int:
        """The largest number of tokens, prompt and answer together."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that a memory depends on beside the weights, as JSON values."""

    def start(self, length: int) -> Any:
        """Return the memory of a text of `length` tokens before anything is read."""

    def read(self, ids: Sequence[int], memory: Any, before_step: Callable[[], None]) -> Tensor:
        """Read more of a text, and return the logits after its last token, float32 (vocabulary,).

        Args:
            ids: The token ids; at least one.
            memory: What was kept of the text so far; it is updated after each step.
            before_step: Called before each step. If it raises, the memory stays usable.
        """

    def state_of(self, memory: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a memory as tensors and JSON values.

        Raises:
            NotSupportedError: This model's memory is more than keys and values.
        """

    def memory_from(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Any:
        """Return the memory that `state_of` was called with; raises KeyError, TypeError or ValueError if it can't."""
