"""The settings of an Activation Beacon checkpoint, read from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.generation.context_limit import rope_positions

Attention = Literal["full-coverage", "step-expansion", "segmentation"]
Position = Literal["interleave", "append"]

#: The model types that Activation Beacon was published for.
BEACON_TYPES = ("llama", "mistral", "qwen2")
#: Values that apply if config.json lacks them.
_DEFAULTS: dict[str, Any] = {
    "beacon_window": 1024,
    "beacon_stride": 1024,
    "beacon_attn": "full-coverage",
    "beacon_attend_prev": True,
    "beacon_ratio": [2, 4, 8, 16, 32],
    "beacon_ratio_mix": "step-random",
    "beacon_param": [],
    "beacon_pos": "interleave",
    "beacon_sink_size": 0,
}
#: Seed of random ratios.
_SEED = 42


@dataclass(frozen=True)
class BeaconConfig:
    """How a beacon model condenses what it reads.

    Attributes:
        window: Number of tokens that are read before they are condensed.
        ratios: The possible numbers of tokens per beacon. 0 keeps all tokens.
        ratio_mix: How one of several is chosen: "step-random" and "sequence" for each window, "instance-random" and
            "adapt-N" for each text.
        attention: What beacons see of their window.
        attends_previous: Whether they also see earlier beacons of their window.
        position: Whether beacons stand among the tokens ("interleave") or after a full window ("append").
        sink: Number of first tokens that are kept as they are.
        projections: The letters of the projections that beacons have of their own: "q", "k", "v", "o".
        positions: Number of positions that the model can tell apart.
    """

    window: int
    ratios: tuple[int, ...]
    ratio_mix: str
    attention: Attention
    attends_previous: bool
    position: Position
    sink: int
    projections: tuple[str, ...]
    positions: int

    @classmethod
    def read(cls, config: Mapping[str, Any], ratio: int | None = None) -> BeaconConfig:
        """Read config.json. `ratio` replaces the checkpoint's own ratios.

        Raises:
            NotSupportedError: The settings are valid, but the reference can't run them either.
            CheckpointError: A value is missing or wrong.
        """
        values = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
        try:
            window, stride, sink = (int(values[f"beacon_{key}"]) for key in ("window", "stride", "sink_size"))
            stored = values["beacon_ratio"] if ratio is None else [ratio]
            ratios = tuple(r for r in map(int, stored) if r == 0 or (r > 0 and stride % r == 0))
            projections = tuple(map(str, values["beacon_param"]))
            known = (
                window > 0
                and sink >= 0
                and set(projections) <= set("qkvo")
                and values["beacon_attn"] in ("full-coverage", "step-expansion", "segmentation")
                and values["beacon_pos"] in ("interleave", "append")
                and _is_mix(values["beacon_ratio_mix"])
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"config.json contains a beacon setting of the wrong type ({error})") from error
        if not known:
            raise CheckpointError(f"config.json contains an unknown beacon setting: {values}")
        if not ratios:
            raise CheckpointError(
                f"no ratio in {list(stored)} divides the window of {stride} tokens", advice="use one that divides it"
            )
        if stride != window:
            raise NotSupportedError(f"beacon_stride={stride} is not beacon_window={window}, which no release can run")
        made = cls(
            window=window,
            ratios=ratios,
            ratio_mix=values["beacon_ratio_mix"],
            attention=values["beacon_attn"],
            attends_previous=bool(values["beacon_attend_prev"]),
            position=values["beacon_pos"],
            sink=sink,
            projections=projections,
            positions=rope_positions(config),
        )
        hides_beacons = made.attention == "step-expansion" and not made.attends_previous
        if made.position == "interleave" and made.attention != "full-coverage" and not hides_beacons:
            raise NotSupportedError(f"interleaved beacons with beacon_attn={made.attention!r} are not supported")
        return made

    def ratio_of(self, window: int, length: int) -> int:
        """Return the ratio of a window, counted from 0, of a text that had `length` tokens when reading began."""
        if len(self.ratios) == 1:
            return self.ratios[0]
        if self.ratio_mix == "sequence":
            return self.ratios[window % len(self.ratios)]
        if self.ratio_mix.startswith("adapt-"):
            whole = length + int(self.ratio_mix.removeprefix("adapt-"))
            return next((r for r in sorted(self.ratios) if self.capacity(r) >= whole), max(self.ratios))
        random, draws = np.random.default_rng(_SEED), window + 1 if self.ratio_mix == "step-random" else 1
        return int([random.choice(self.ratios) for _ in range(draws)][-1])

    def capacity(self, ratio: int) -> int:
        """Return the number of tokens after which the beacons of this ratio no longer fit into the positions."""
        return (self.positions - self.window) * max(ratio, 1) + self.window

    @property
    def max_length(self) -> int:
        """The largest number of tokens, prompt and answer together, that is sure to fit into the positions."""
        adapts = self.ratio_mix.startswith("adapt-") or len(self.ratios) == 1
        return self.capacity(max(self.ratios) if adapts else min(self.ratios))


def _is_mix(mix: object) -> bool:
    if not isinstance(mix, str):
        return False
    return mix in ("step-random", "instance-random", "sequence") or mix.removeprefix("adapt-").isdecimal()
