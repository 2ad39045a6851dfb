"""What an image model sees of an image: a square of a fixed size, resized and cropped exactly as in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ImageFormat:
    """How a model sees an image.

    Attributes:
        size: Width and height of the square, in pixels.
        tokens: Number of image tokens, which count towards the size of a batch.
        shares_positions: Whether image tokens also count towards the maximum length of a text.
        converts_first: Whether an image is converted to RGB before it is resized; otherwise after it is cropped.
        floors_crop: Whether the crop's odd pixel is always left below and to the right; otherwise its offset is rounded
            half to even.
    """

    size: int
    tokens: int
    shares_positions: bool
    converts_first: bool
    floors_crop: bool

    def resized_to(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height to which an image of this width and height is resized before it is cropped."""
        width, height = image_size
        short = min(width, height)
        longer = int(self.size * max(width, height) / short)
        return (self.size, longer) if width <= height else (longer, self.size)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels that the model sees, uint8 (3, size, size).

        The shorter side becomes `size` (bicubic), then the centre is cropped. EXIF orientation is ignored, as in the
        reference. An image that is converted last is resized in its own mode: a palette with nearest neighbour, for
        example. That changes the pixels, and the models were published with them.
        """
        from PIL.Image import Resampling

        if self.converts_first:
            image = image.convert("RGB")
        if min(image.size) != self.size:
            image = image.resize(self.resized_to(image.size), Resampling.BICUBIC)
        left, top = (self._offset(side) for side in image.size)
        image = image.crop((left, top, left + self.size, top + self.size)).convert("RGB")
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _offset(self, side: int) -> int:
        spare = side - self.size
        return spare // 2 if self.floors_crop else round(spare / 2)
