"""Images as documents: their fingerprints, which show whether a stored one has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_text


def image_digest(given: Mapping[str, Any], name: str) -> str:
    """Return a fingerprint of the image in an input of `Embedder.encode`: 128 bits in hexadecimal.

    Args:
        given: A dict with "image", and perhaps "text".
        name: Its name in messages, such as "texts[3]".

    Raises:
        InvalidInputError: It is something else, or the image's file can't be read.
    """
    image = given.get("image")
    if image is None or not given.keys() <= {"image", "text"}:
        raise InvalidInputError(f"{name} must have the keys 'image' and perhaps 'text', got {sorted(map(str, given))}")
    if given.get("text") is not None:
        check_text(given["text"], f"{name}['text']")
    hashed = hashlib.blake2b(digest_size=16)
    for part in _parts(image, name):
        hashed.update(part)
    return hashed.hexdigest()


def _parts(image: Any, name: str) -> list[bytes]:
    if isinstance(image, str) and image.lower().startswith(("http://", "https://")):
        return [image.encode()]
    if isinstance(image, (str, os.PathLike)):
        try:
            with open(image, "rb") as file:
                return [hashlib.file_digest(file, "blake2b").digest()]
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"{name}['image'] can't be read ({error})") from error
    if isinstance(image, (bytes, bytearray, memoryview)):
        return [hashlib.blake2b(image).digest()]
    if isinstance(image, np.ndarray):
        return [f"{image.dtype} {image.shape}".encode(), np.ascontiguousarray(image).tobytes()]
    if hasattr(image, "getbands"):  # a PIL image, without importing PIL
        return [f"{image.mode} {image.size} {image.getpalette()}".encode(), image.tobytes()]
    raise InvalidInputError(
        f"{name}['image'] must be a path, bytes, a PIL image or an array, got {type(image).__name__}"
    )
