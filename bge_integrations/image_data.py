"""Images written as text: base64, and data URIs such as "data:image/png;base64,iVBOR…"."""

from __future__ import annotations

import base64
import binascii

from bge_integrations.errors import InvalidInputError


def is_image_uri(text: str) -> bool:
    """Return whether a text is the data URI of an image."""
    return text[:11].lower() == "data:image/"


def decode_image(text: str, name: str) -> bytes:
    """Return the bytes of an image that is given as base64, or as a data URI.

    Args:
        text: The base64 or the data URI. Line breaks in it are ignored.
        name: The input's name in messages, such as "texts[3]['image']".

    Raises:
        InvalidInputError: It is neither.
    """
    header, comma, data = text.partition(",") if is_image_uri(text) else ("", "", text)
    if comma and not header.lower().endswith(";base64"):
        raise InvalidInputError(f"{name} is a data URI that is not in base64; encode the image in base64")
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(
            f"{name} is not valid base64 ({error})", advice="send the image's bytes in base64, or as a data URI"
        ) from error
