"""Images as rows of pixels: one row per patch, which a linear turns into a token of an image tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bge_integrations.models.placement import Placement

#: The mean and the standard deviation of CLIP's training images, by channel.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def normalized(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Return images, uint8 (3, size, size) each, as float32 (images, 3, size, size) with CLIP's mean and deviation."""
    pixels = torch.from_numpy(np.stack(images)).to(device).float().div_(255)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _STD))
    return pixels.sub_(mean).div_(std)


def patches(images: Sequence[np.ndarray], patch: int, placement: Placement) -> Tensor:
    """Return the normalized pixels of each patch, row by row: (images * patches, 3 * patch * patch)."""
    pixels = normalized(images, placement.device)
    count, channels, size, _ = pixels.shape
    grid = size // patch
    rows = pixels.view(count, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    return rows.reshape(count * grid * grid, channels * patch * patch).to(placement.compute_dtype)
