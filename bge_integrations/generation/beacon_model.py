"""Activation Beacon: transformers' Llama, Mistral and Qwen2 that condense what they have read, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bge_integrations.generation.beacon_windows import Chunk, Progress, next_chunk, positions_and_mask

if TYPE_CHECKING:
    from bge_integrations.generation.beacon_config import BeaconConfig


def with_beacons(network: type[Any], config: BeaconConfig) -> type[Any]:
    """Return a subclass of a transformers model that also has the beacon's embedding and projections.

    They have the names of the published checkpoints, so that `from_pretrained` and `save_pretrained` handle them.
    """

    class WithBeacons(network):  # type: ignore[misc]
        def __init__(self, settings: Any) -> None:
            super().__init__(settings)
            self.model.beacon_embed_tokens = nn.Embedding(1, settings.hidden_size)
            for layer in self.model.layers:
                attention = layer.self_attn
                for letter in config.projections:
                    own = getattr(attention, f"{letter}_proj")
                    beacon = nn.Linear(own.in_features, own.out_features, bias=own.bias is not None)
                    setattr(attention, f"beacon_{letter}_proj", beacon)

    WithBeacons.__name__ = network.__name__  # what save_pretrained writes to config.json
    return WithBeacons


@dataclass
class BeaconMemory:
    """What is kept of one text, or of several that are read in step.

    Its tensors are never changed in place, so a copy shares them.

    Attributes:
        progress: How far the text was read.
        layers: Keys and values of each layer before RoPE, (texts, heads, entries, head size). Empty at the beginning.
    """

    progress: Progress
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def copy(self) -> BeaconMemory:
        """Return a copy that can be read on, independent of this one."""
        return BeaconMemory(copy(self.progress), list(self.layers))

    @property
    def bytes(self) -> int:
        """Bytes of the kept keys and values."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)


class BeaconModel:
    """Reads token ids into a `BeaconMemory`, and returns the states and logits of the tokens.

    Args:
        network: A model whose class `with_beacons` has made.
        config: The beacon's settings.
        rope: The settings of its rotary embedding.
    """

    def __init__(self, network: Any, config: BeaconConfig, rope: Mapping[str, Any]) -> None:
        self.network, self.config = network, config
        how = {**asdict(config), "projections": list(config.projections)}
        del how["ratios"], how["ratio_mix"], how["positions"]  # another ratio can go on where one has stopped
        self.settings: Mapping[str, Any] = {"kind": "beacon", "rope": dict(rope), **how}
        self._body = network.model

    @property
    def max_length(self) -> int:
        """The largest number of tokens, prompt and answer together."""
        return self.config.max_length

    def start(self, length: int) -> BeaconMemory:
        """Return the memory of a text of `length` tokens before anything is read."""
        return BeaconMemory(Progress(length))

    def read(self, ids: Sequence[int], memory: BeaconMemory, before_step: Callable[[], None]) -> Tensor:
        """Read more of a text, and return the logits after its last token, float32 (vocabulary,).

        Args:
            ids: The token ids; at least one.
            memory: What was kept of the text so far; it is updated after each step.
            before_step: Called before each window. If it raises, the memory has all windows read so far.
        """
        device = self._body.embed_tokens.weight.device
        last = None
        for states in self.steps(torch.tensor([list(ids)], device=device), memory, before_step):
            last = states[0, -1]
        assert last is not None
        return self.logits(last)

    def state_of(self, memory: BeaconMemory) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a memory as tensors and JSON values."""
        tensors = {}
        for i, (keys, values) in enumerate(memory.layers):
            tensors[f"{i}.keys"], tensors[f"{i}.values"] = keys, values
        return tensors, asdict(memory.progress)

    def memory_from(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> BeaconMemory:
        """Return the memory that `state_of` was called with."""
        weight = self._body.embed_tokens.weight
        pairs = [(tensors[f"{i}.keys"], tensors[f"{i}.values"]) for i in range(len(self._body.layers))]
        layers = [(keys.to(weight), stored.to(weight)) for keys, stored in pairs]
        return BeaconMemory(Progress(**{**values, "raw": tuple(values["raw"])}), layers)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of states, float32 (…, vocabulary)."""
        logits: Tensor = self.network.lm_head(states).float()
        return logits

    def steps(
        self, ids: Tensor, memory: BeaconMemory, before_step: Callable[[], None] = lambda: None
    ) -> Iterator[Tensor]:
        """Read ids (texts, tokens) in steps; yield the states of each step's tokens, (texts, tokens, hidden).

        All texts have the same number of tokens: a shorter text must be read by itself, because padding would fill its
        windows. Gradients flow through the kept beacons.
        """
        begin, total = 0, ids.shape[1]
        while begin < total:
            before_step()
            # a failed step leaves the memory as it was
            progress = copy(memory.progress)
            chunk = next_chunk(progress, total - begin, self.config)
            states, layers = self._step(ids[:, begin : begin + chunk.tokens], chunk, progress, memory.layers)
            memory.progress, memory.layers = self._kept(progress, chunk, layers)
            begin += chunk.tokens
            is_token = torch.from_numpy(~chunk.is_beacon).to(states.device)
            yield self._body.norm(states[:, is_token] if chunk.is_beacon.any() else states)

    def _step(
        self, ids: Tensor, chunk: Chunk, progress: Progress, stored: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Compute a chunk; return its states, and each layer's keys and values with those of the chunk at the end."""
        body = self._body
        x = body.embed_tokens(ids)
        beacons = torch.from_numpy(np.flatnonzero(chunk.is_beacon)).to(ids.device)
        if len(beacons):
            own = body.beacon_embed_tokens.weight.to(x.dtype).expand(len(ids), len(chunk.is_beacon), -1)
            x = own.index_copy(1, torch.from_numpy(np.flatnonzero(~chunk.is_beacon)).to(ids.device), x)
        positions, mask = positions_and_mask(progress, chunk, self.config)
        rotation = body.rotary_emb(x, torch.from_numpy(positions).to(ids.device)[None])
        mask = None if mask is None else mask.to(ids.device)
        layers = []
        for i, layer in enumerate(body.layers):
            attended, keys_values = self._attend(
                layer.self_attn, layer.input_layernorm(x), beacons, stored[i] if stored else None, rotation, mask
            )
            layers.append(keys_values)
            x = x + attended
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return x, layers

    def _attend(
        self,
        attention: Any,
        x: Tensor,
        beacons: Tensor,
        stored: tuple[Tensor, Tensor] | None,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        def projected(letter: str, states: Tensor) -> Tensor:
            out: Tensor = getattr(attention, f"{letter}_proj")(states)
            if len(beacons) and letter in self.config.projections:
                own = getattr(attention, f"beacon_{letter}_proj")(states[:, beacons])
                out = out.index_copy(1, beacons, own)
            return out

        texts, new = x.shape[:2]
        q, k, v = (projected(letter, x).view(texts, new, -1, attention.head_dim).transpose(1, 2) for letter in "qkv")
        if stored is not None:
            k, v = torch.cat([stored[0], k], 2), torch.cat([stored[1], v], 2)
        cos, sin = rotation
        context = _attention(_rotate(q, cos[:, -new:], sin[:, -new:]), _rotate(k, cos, sin), v, mask, attention.scaling)
        return projected("o", context.transpose(1, 2).reshape(texts, new, -1)), (k, v)

    def _kept(
        self, progress: Progress, chunk: Chunk, layers: list[tuple[Tensor, Tensor]]
    ) -> tuple[Progress, list[tuple[Tensor, Tensor]]]:
        """Return what stays after a chunk: all of an unfinished window, only the beacons of a full one."""
        kept, stored = progress.sink + progress.beacons, progress.sink + progress.beacons + len(progress.raw)
        window = np.array([*progress.raw, *chunk.is_beacon], bool)
        indices = np.arange(stored + len(chunk.is_beacon))
        after = copy(progress)
        if chunk.is_full:
            window_kept = window if progress.ratio else np.ones_like(window)
            indices = np.concatenate([indices[:kept], indices[kept:][window_kept]])
            after.in_window, after.raw = 0, ()
            after.beacons += int(window_kept.sum())
        else:
            after.in_window += chunk.tokens
            after.raw = tuple(window.tolist())
        if self.config.sink and progress.beacons == 0:
            # As the reference does: until there are beacons, the sink is the first entries of the latest chunk.
            sink = np.arange(stored, stored + len(chunk.is_beacon))[: self.config.sink]
            indices = np.concatenate([sink, indices[progress.sink :]])
            after.sink = len(sink)
        elif not chunk.is_full:
            return after, layers
        chosen = torch.from_numpy(indices).to(layers[0][0].device)
        return after, [(k.index_select(2, chosen), v.index_select(2, chosen)) for k, v in layers]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to (texts, heads, entries, head size)."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attend with groups of query heads that share keys and values; shapes are (texts, heads, entries, head size)."""
    groups = q.shape[1] // k.shape[1]
    if mask is None:  # one entry, which sees everything: its heads become entries, so nothing is repeated
        grouped = q.view(len(q), k.shape[1], groups, -1)
        return F.scaled_dot_product_attention(grouped, k, v, scale=scale).view(q.shape)
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
