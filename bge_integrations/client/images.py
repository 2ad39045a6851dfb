"""Images of a call as they are sent to a server: in base64, read from their files when their batch is sent."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bge_integrations.core.image_inputs import ImageInput
from bge_integrations.errors import InvalidInputError, NotSupportedError
from bge_integrations.optional import import_library

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


def with_encoded_images(inputs: Sequence[T]) -> list[T]:
    """Return inputs whose PIL images and arrays are replaced by image files in memory. Their pixels stay the same.

    Raises:
        InvalidInputError: An image can't be written as a file.
    """
    return [_encoded(each) if isinstance(each, ImageInput) else each for each in inputs]  # type: ignore[misc]


def sent_size(given: ImageInput) -> int:
    """Return how many bytes an image takes in base64."""
    image = given.image
    return 4 * ((len(image) if isinstance(image, bytes) else os.stat(image).st_size) // 3 + 1)


def as_json(given: ImageInput, prefix: str) -> Mapping[str, str | None]:
    """Return an image as an item of a request. `prefix` is prepended to its text.

    Raises:
        InvalidInputError: Its file is gone.
        NotSupportedError: There is a prefix, but no text.
    """
    if prefix and given.text is None:
        raise NotSupportedError(
            f"{given.name}: an image without a text can't get an instruction from a client",
            advice="leave passage_instruction out, or load the model locally",
        )
    try:
        content = given.image if isinstance(given.image, bytes) else Path(given.image).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{given.name}: the image {given.image} can't be read ({error.strerror})") from error
    text = None if given.text is None else prefix + given.text
    return {"image": base64.b64encode(content).decode("ascii"), "text": text}


def _encoded(given: ImageInput) -> ImageInput:
    if isinstance(given.image, (str, bytes, os.PathLike)):
        return given
    library = import_library("PIL.Image", "vision", "images")
    image: Any = given.image
    if isinstance(image, np.ndarray):
        image = library.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    try:
        return replace(given, image=_file_of(image))
    except Exception as error:  # a lazily opened image may turn out to be damaged
        raise InvalidInputError(
            f"{given.name}: the image can't be sent ({type(error).__name__}: {error})", advice="pass its path"
        ) from error


def _file_of(image: Image.Image) -> bytes:
    """Return a PNG, or a TIFF in the modes that PNG does not have, such as CMYK."""
    for file_format in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        try:
            image.save(buffer, file_format)
        except OSError:
            if file_format == "TIFF":
                raise
        else:
            break
    return buffer.getvalue()
