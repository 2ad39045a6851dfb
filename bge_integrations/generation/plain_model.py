"""Any causal language model of transformers, with its own cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from bge_integrations.errors import NotSupportedError

#: Tokens of a prompt that are read in one step, which bounds the memory of the step.
_STEP_TOKENS = 2048


@dataclass
class PlainMemory:
    """All keys and values of a text.

    Attributes:
        cache: transformers' cache.
    """

    cache: DynamicCache

    def copy(self) -> PlainMemory:
        """Return a copy that can be read on, independent of this one."""
        if any(type(layer) is not DynamicLayer for layer in self.cache.layers):
            return PlainMemory(deepcopy(self.cache))
        twin = copy(self.cache)  # these layers replace their tensors and never change them, so both can share them
        twin.layers = [copy(layer) for layer in self.cache.layers]
        return PlainMemory(twin)

    @property
    def bytes(self) -> int:
        """Bytes of the kept keys and values."""
        parts = [getattr(layer, name, None) for layer in self.cache.layers for name in ("keys", "values")]
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


class PlainModel:
    """Reads token ids with one of transformers' causal language models.

    Args:
        network: The model.
        max_length: The largest number of tokens, prompt and answer together.
        rope: The settings of its rotary embedding.
    """

    def __init__(self, network: Any, max_length: int, rope: Mapping[str, Any]) -> None:
        self.network, self.max_length = network, max_length
        self.settings: Mapping[str, Any] = {"kind": "plain", "rope": dict(rope)}
        takes = inspect.signature(network.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        if "past_key_values" not in takes:
            raise NotSupportedError(f"{type(network).__name__} has no cache of keys and values")

    def start(self, length: int) -> PlainMemory:
        """Return the memory of a text before anything is read."""
        return PlainMemory(DynamicCache(config=self.network.config))

    def read(self, ids: Sequence[int], memory: PlainMemory, before_step: Callable[[], None]) -> Tensor:
        """Read more of a text, and return the logits after its last token, float32 (vocabulary,)."""
        logits: Tensor | None = None
        for begin in range(0, len(ids), _STEP_TOKENS):
            before_step()
            step = torch.tensor([list(ids[begin : begin + _STEP_TOKENS])], device=self.network.device)
            out = self.network(input_ids=step, past_key_values=memory.cache, use_cache=True, **self._last_only)
            logits = out.logits[0, -1].float()
        assert logits is not None
        return logits

    def state_of(self, memory: PlainMemory) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a memory as tensors and JSON values."""
        if any(type(layer) is not DynamicLayer for layer in memory.cache.layers):
            raise NotSupportedError(
                f"{type(self.network).__name__} keeps more than keys and values, so it can't be saved"
            )
        tensors: dict[str, Any] = {}
        layers: list[Any] = memory.cache.layers
        for i, layer in enumerate(layers):
            tensors[f"{i}.keys"], tensors[f"{i}.values"] = layer.keys, layer.values
        return tensors, {}

    def memory_from(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> PlainMemory:
        """Return the memory that `state_of` was called with."""
        memory = self.start(0)
        place = {"device": self.network.device, "dtype": self.network.dtype}
        for i in range(self.network.config.num_hidden_layers):
            memory.cache.update(tensors[f"{i}.keys"].to(**place), tensors[f"{i}.values"].to(**place), i)
        return memory
