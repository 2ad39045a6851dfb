"""Images as frameworks pass them, translated to the inputs of `Embedder.encode`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.image_data import decode_image, is_image_uri

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input


def image_inputs(images: object) -> list[Input]:
    """Return the inputs of a list of images.

    An image is what the core takes (a path, bytes, a PIL image or a uint8 array), a BytesIO, or the data URI of an
    image. A dict of "image" and "text" is an image with a text.

    Raises:
        InvalidInputError: It is not a list, or a data URI can't be decoded.
    """
    if isinstance(images, (str, bytes, Mapping)) or not isinstance(images, Iterable):
        raise InvalidInputError(f"images must be a list of images, got one {type(images).__name__}; wrap it: [image]")
    return [image_input(image, f"images[{i}]") for i, image in enumerate(images)]


def image_input(image: Any, name: str) -> Input:
    """Return the input of one image; `name` is its name in messages. See `image_inputs`."""
    if isinstance(image, Mapping):
        return {**image, "image": _decoded(image["image"], name)} if "image" in image else image
    return {"image": _decoded(image, name)}


def _decoded(image: Any, name: str) -> Any:
    if isinstance(image, io.BytesIO):
        return image.getvalue()
    return decode_image(image, name) if isinstance(image, str) and is_image_uri(image) else image
