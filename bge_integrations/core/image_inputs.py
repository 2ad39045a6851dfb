"""Images among the inputs: check, decode and resize them on threads, and tokenise the texts beside them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bge_integrations.core.image_urls import FetchError, ImageUrl, UrlScope, checked_url, is_url
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.interface import TokenSequence
from bge_integrations.optional import import_library
from bge_integrations.validation import check_list, check_text

if TYPE_CHECKING:
    from PIL import Image

    from bge_integrations.models.image_format import ImageFormat

#: Maximum pixels of an image, as stored and as resized: 268 MB in RGB.
MAX_PIXELS = 89_478_485
#: Maximum bytes of an encoded image.
MAX_BYTES = 256 << 20
#: Inputs of a chunk: their images are decoded while the device computes the chunk before.
CHUNK = 128
#: The formats that are decoded. Others, such as EPS, would run another program.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
#: What may follow the height and width in the shape of an array.
_CHANNELS = ((), (1,), (3,), (4,))
#: Maximum characters of a path in a message.
_LONGEST_PATH = 200
_WORKERS = min(8, os.cpu_count() or 1)
#: An image counts as this many characters, so that it is never decoded on an event loop.
_CHARACTERS = 1 << 20


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image, or an image with a text.

    Attributes:
        image: A path, bytes, a PIL image, a uint8 array (height, width[, 1, 3 or 4]) or a URL.
        text: The text; None without one.
        name: The input's name in messages, such as "texts[3]".
    """

    image: Any
    text: str | None
    name: str

    def __len__(self) -> int:
        """Return its size in characters, as of a str."""
        return _CHARACTERS + len(self.text or "")


def check_inputs(inputs: object, argument: str, urls: UrlScope | None) -> list[str | ImageInput]:
    """Return `inputs` as a list of str and images.

    Each is a str, or a dict with "text", "image" or both.

    Args:
        inputs: The inputs of a call.
        argument: Its argument, for messages.
        urls: Where images given as URLs may be fetched from; None refuses URLs.

    Raises:
        InvalidInputError: It is not a list, or an element is neither; the message names the element.
    """
    if isinstance(inputs, (str, bytes, Mapping)):
        raise InvalidInputError(f"{argument} must be a list, got one {type(inputs).__name__}; wrap it: [input]")
    given = check_list(inputs, argument, "texts and images")
    return [_checked(each, f"{argument}[{i}]", urls) for i, each in enumerate(given)]


def _checked(each: object, name: str, urls: UrlScope | None) -> str | ImageInput:
    if not isinstance(each, Mapping):
        if not isinstance(each, str):
            raise InvalidInputError(
                f"{name} must be a str, or a dict with 'text', 'image' or both, got {type(each).__name__}"
            )
        check_text(each, name)
        return each
    if not each or not each.keys() <= {"text", "image"}:
        raise InvalidInputError(f"{name} must have the keys 'text', 'image' or both, got {sorted(map(str, each))}")
    text, image = each.get("text"), each.get("image")
    if text is not None:
        check_text(text, f"{name}['text']")
    if image is None:
        if text is None:
            raise InvalidInputError(f"{name} has neither a text nor an image")
        return str(text)
    return ImageInput(_checked_image(image, f"{name}['image']", urls), text, name)


def _checked_image(image: object, name: str, urls: UrlScope | None) -> object:
    """Return an image of one of the kinds that can be opened; check what can be checked without decoding it."""
    if is_url(image):
        if urls is None:
            raise InvalidInputError(
                f"{name} is a URL, which this embedder may not fetch",
                advice="load the model with image_urls='public', or pass the image's path or its bytes",
            )
        return checked_url(str(image), urls, name)
    if isinstance(image, str) and image[:5].lower() == "data:":
        raise InvalidInputError(f"{name} is a data URI; pass the bytes in it")
    if isinstance(image, (str, os.PathLike)):
        size = _file_size(image)
        if size is None:
            raise InvalidInputError(f"{name}: there is no file {_shown(image)}")
    elif isinstance(image, (bytes, bytearray, memoryview)):
        image = bytes(image)
        size = len(image)
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size or image.shape[2:] not in _CHANNELS:
            raise InvalidInputError(
                f"{name} must be a uint8 array (height, width), or (height, width, channels) with 1, 3 or 4 channels, "
                f"got {image.dtype} {image.shape}"
            )
        return image
    elif hasattr(image, "getbands"):  # a PIL image, without importing PIL
        return image
    else:
        raise InvalidInputError(
            f"{name} must be a path, bytes, a PIL image or a numpy array, got {type(image).__name__}"
        )
    if size > MAX_BYTES:
        raise InvalidInputError(f"{name} has {size} bytes, more than the {MAX_BYTES} that are read; make it smaller")
    return image


def _file_size(path: str | os.PathLike[str]) -> int | None:
    """Return the size of a regular file in bytes; None if the path is not one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # also a path that is too long, or contains a null character
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _shown(path: str | os.PathLike[str]) -> str:
    """Return a path for a message, without most of a text that is not one."""
    name = os.fspath(path)
    return repr(name if len(name) <= _LONGEST_PATH else f"{name[:_LONGEST_PATH]}…")


def tokenize_inputs(
    inputs: Sequence[str | ImageInput],
    image_format: ImageFormat,
    max_length: int,
    longest: int,
    tokenize: Callable[..., tuple[list[TokenSequence], dict[int, int]]],
) -> tuple[list[TokenSequence], dict[int, int]]:
    """Return the sequences of texts and images, and {position: tokens} of the inputs whose text was truncated.

    Args:
        inputs: Texts, images, and images with texts.
        image_format: How the model sees images.
        max_length: Maximum number of tokens of a text.
        longest: Maximum number of tokens that the model accepts, including image tokens if they share its positions.
        tokenize: Tokenises texts: tokenize(texts, max_length=…) returns sequences, and {position: tokens} of those
            truncated.
    """
    images = [each for each in inputs if isinstance(each, ImageInput)]
    pixels = iter(_decode(images, image_format))
    beside = min(max_length, longest - image_format.tokens) if image_format.shares_positions else max_length
    alone = {i: each for i, each in enumerate(inputs) if isinstance(each, str)}
    captions = {
        i: each.text or ""
        for i, each in enumerate(inputs)
        if isinstance(each, ImageInput) and (each.text is not None or image_format.shares_positions)
    }
    tokenized: dict[int, TokenSequence] = {}
    truncated: dict[int, int] = {}
    for texts, room in ((alone, max_length), (captions, beside)):
        if texts:
            sequences, cut = tokenize(list(texts.values()), max_length=room)
            tokenized |= zip(texts, sequences, strict=True)
            positions = list(texts)
            truncated |= {positions[i]: tokens for i, tokens in cut.items()}
    found = []
    for i, each in enumerate(inputs):
        sequence = tokenized.get(i, TokenSequence(np.zeros(0, np.int32)))
        if isinstance(each, ImageInput):
            sequence = replace(sequence, pixels=next(pixels), image_tokens=image_format.tokens)
        found.append(sequence)
    return found, truncated


def _decode(images: Sequence[ImageInput], image_format: ImageFormat) -> list[np.ndarray]:
    """Return the pixels of each image, uint8 (3, size, size). The same object or path is decoded once."""
    if not images:
        return []
    import_library("PIL.Image", "vision", "images")
    sources = {_identity(each.image): each for each in images}
    if len(sources) == 1:
        found = [_pixels(each, image_format) for each in sources.values()]
    else:
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="bge-images") as pool:
            found = list(pool.map(lambda each: _pixels(each, image_format), sources.values()))
    by_source = dict(zip(sources, found, strict=True))
    return [by_source[_identity(each.image)] for each in images]


def _identity(image: object) -> object:
    if isinstance(image, ImageUrl):
        return image
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image)


def _pixels(given: ImageInput, image_format: ImageFormat) -> np.ndarray:
    """Open, check and convert an image; raise InvalidInputError, naming the input, if that fails in any way."""
    try:
        image = _opened(given.image)
        for width, height in (image.size, image_format.resized_to(image.size)):
            if width * height > MAX_PIXELS:
                raise InvalidInputError(
                    f"{given.name}: an image of {image.size[0]} x {image.size[1]} pixels is too large to decode (limit "
                    f"{MAX_PIXELS} pixels, also after its shorter side is resized to {image_format.size}); make it "
                    "smaller"
                )
        return image_format.pixels(image)
    except InvalidInputError:
        raise
    except FetchError as error:
        raise InvalidInputError(
            f"{given.name}: the image {_shown(given.image.url)} can't be fetched ({error})",
            advice="pass its path or its bytes, or leave it out",
        ) from error
    except Exception as error:  # decoders of damaged files raise almost anything
        source = given.image.url if isinstance(given.image, ImageUrl) else given.image
        what = f" {_shown(source)}" if isinstance(source, (str, os.PathLike)) else ""
        # Pillow's message names the object that holds the bytes
        unknown = type(error).__name__ == "UnidentifiedImageError"
        reason = "its format is not known" if unknown else f"{type(error).__name__}: {error}"
        raise InvalidInputError(
            f"{given.name}: the image{what} can't be decoded ({reason})",
            advice="save it again as PNG or JPEG, or leave it out",
        ) from error


def _opened(image: Any) -> Image.Image:
    """Return a PIL image whose pixels may not be decoded yet."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, ImageUrl):
        image = image.fetch()
    file = io.BytesIO(image if isinstance(image, bytes) else Path(image).read_bytes())
    return Image.open(file, formats=FORMATS)
