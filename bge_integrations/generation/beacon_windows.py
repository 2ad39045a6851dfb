"""Where beacons stand and what they see: the chunks that a text is read in, their positions and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.generation.beacon_config import BeaconConfig


@dataclass
class Progress:
    """How far a text was read, and what is stored of it: sink, then beacons, then raw tokens of the current window.

    Attributes:
        length: Number of tokens that the text had when reading began.
        windows: Number of windows begun.
        ratio: Ratio of the current window.
        remainder: Number of tokens since its last beacon.
        in_window: Number of its tokens that were read.
        sink, beacons: Number of stored sink tokens and beacons.
        raw: Whether each other stored entry is a beacon; those of the current window.
    """

    length: int
    windows: int = 0
    ratio: int = 0
    remainder: int = 0
    in_window: int = 0
    sink: int = 0
    beacons: int = 0
    raw: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """The tokens that are read in one step.

    Attributes:
        tokens: Number of tokens.
        is_beacon: Whether each entry is a beacon, in the order in which they are read, (tokens + beacons,).
        is_full: Whether the chunk completes its window, which is then condensed.
    """

    tokens: int
    is_beacon: NDArray[np.bool_]
    is_full: bool


def next_chunk(progress: Progress, unread: int, config: BeaconConfig) -> Chunk:
    """Return the next chunk of a text with this many unread tokens; begin a new window in `progress` if it is due."""
    if progress.in_window == 0:
        progress.ratio = config.ratio_of(progress.windows, progress.length)
        progress.windows += 1
        progress.remainder = 0
    tokens = min(config.window - progress.in_window, unread)
    is_full = progress.in_window + tokens == config.window
    ratio = progress.ratio
    if ratio == 0:
        return Chunk(tokens, np.zeros(tokens, bool), is_full)
    if config.position == "append":
        beacons = config.window // ratio if is_full else 0
        return Chunk(tokens, np.arange(tokens + beacons) >= tokens, is_full)
    beacons = (tokens + progress.remainder) // ratio
    is_beacon = np.arange(tokens + beacons) % (ratio + 1) == ratio - progress.remainder
    progress.remainder = (tokens + progress.remainder) % ratio
    return Chunk(tokens, is_beacon, is_full)


def positions_and_mask(
    progress: Progress, chunk: Chunk, config: BeaconConfig
) -> tuple[NDArray[np.int64], torch.Tensor | None]:
    """Return the positions of all entries, stored and new, and what the new ones see.

    Returns:
        The positions (stored + new,), and a mask (new, stored + new), true if an entry is seen; None if all are.
    """
    new, kept = len(chunk.is_beacon), progress.sink + progress.beacons
    stored = kept + len(progress.raw)
    positions = np.arange(stored + new)
    is_plain = config.attention == "full-coverage" or progress.ratio == 0
    if new == 1 and is_plain:
        return positions, None
    mask = torch.ones(new, stored + new, dtype=torch.bool).tril(stored)
    if is_plain:
        return positions, mask
    if config.position == "interleave":
        # As the reference does: an entry after a beacon repeats its position, and the window's first entry is hidden;
        # if the window has beacons, so is the second.
        window = np.array([*progress.raw, *chunk.is_beacon], int)
        positions[kept:] -= np.cumsum(window) - window
        mask[:, kept : kept + 1 + window.max()] = False
        mask.diagonal(stored).fill_(True)
        return positions, mask
    if not chunk.is_beacon.any():
        return positions, mask
    ratio, beacons = progress.ratio, int(chunk.is_beacon.sum())
    number = torch.arange(1, beacons + 1)
    token = torch.arange(config.window)
    seen = token < number[:, None] * ratio
    if config.attention == "segmentation":
        seen &= token >= (number[:, None] - 1) * ratio
    mask[-beacons:, kept : kept + config.window] = seen
    previous = torch.ones(beacons, beacons, dtype=torch.bool)
    mask[-beacons:, -beacons:] = previous.tril() if config.attends_previous else torch.eye(beacons, dtype=torch.bool)
    steps = np.arange(beacons)
    first = np.full(beacons, kept + ratio)
    if config.attention == "step-expansion":
        first += steps * ratio
    positions[-beacons:] = first + (steps if config.attends_previous else 0)
    return positions, mask
