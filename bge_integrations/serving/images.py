"""Images in requests: in base64 or as data URIs. A URL is never fetched, and a path is never read."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from bge_integrations.core.image_inputs import FORMATS
from bge_integrations.core.image_urls import is_url
from bge_integrations.errors import InvalidInputError
from bge_integrations.image_data import decode_image, is_image_uri
from bge_integrations.optional import import_library
from bge_integrations.serving.calls import service_of
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from fastapi import Request

    from bge_integrations.core.embedder import Input


class ImageItem(BaseModel):
    """An image, an image with a text, or a text."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(None, description="The image in base64, or as a data URI.")
    text: str | None = None


async def inputs_of(
    request: Request, items: Sequence[str | ImageItem], name: str, *, uris: bool = False
) -> list[Input]:
    """Return the items of a request as inputs of the core.

    Args:
        request: The request.
        items: Texts and images.
        name: The field that they come from, for messages.
        uris: Whether a text that is the data URI of an image is that image.

    Raises:
        InvalidInputError: An image is a URL, or not in base64.
        Refusal: An image has too many pixels (status 413).
    """
    if all(isinstance(item, str) and not (uris and is_image_uri(item)) for item in items):
        return [item for item in items if isinstance(item, str)]
    most = service_of(request).settings.max_image_pixels
    return await asyncio.to_thread(lambda: [_input(item, f"{name}[{i}]", uris, most) for i, item in enumerate(items)])


def _input(item: str | ImageItem, name: str, uris: bool, most: int) -> Input:
    if isinstance(item, str):
        return {"image": _decoded(item, name, most)} if uris and is_image_uri(item) else item
    if item.image is None:
        return item.text if item.text is not None else {}
    return {"image": _decoded(item.image, name, most), "text": item.text}


def _decoded(image: str, name: str, most: int) -> bytes:
    """Return the bytes of an image, whose header must not promise more pixels than `most`."""
    if is_url(image):
        raise InvalidInputError(f"{name}: the server fetches no URLs", advice="send the image itself, in base64")
    content = decode_image(image, name)
    library = import_library("PIL.Image", "vision", "images")
    try:
        width, height = library.open(io.BytesIO(content), formats=FORMATS).size
    except Exception:  # the core decodes it, and says what is wrong
        return content
    if width * height > most:
        raise Refusal(
            413,
            f"{name}: an image of {width} x {height} pixels is too large (limit {most} pixels); scale it down",
            "image_too_large",
            param=name.partition("[")[0],
        )
    return content
