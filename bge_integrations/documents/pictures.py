"""Pictures among the files of a folder, for models that take images."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bge_integrations.core.image_inputs import FORMATS, MAX_BYTES, MAX_PIXELS
from bge_integrations.documents.content import Property, read_bytes, reading_as
from bge_integrations.errors import UnreadableFileError
from bge_integrations.optional import import_library

#: The suffixes of the pictures in a folder.
PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Picture:
    """A picture in a folder.

    Attributes:
        file: Its path.
        source: Its path relative to the folder, as in `Passage`. It is the document's id, too.
        digest: A fingerprint of the file.
    """

    file: Path
    source: str
    digest: str

    @property
    def metadata(self) -> dict[str, Property]:
        """The source, the title, which is the file's name, and the digest."""
        return {"source": self.source, "title": self.file.stem, "digest": self.digest}


def is_picture(file: Path) -> bool:
    """Return whether a file is a picture, by its suffix."""
    return file.suffix.lower() in PICTURE_SUFFIXES


def read_pictures(
    files: Sequence[Path], sources: Sequence[str], on_unreadable: Callable[[UnreadableFileError], None] | None
) -> Iterator[Picture]:
    """Yield the pictures among files.

    Args:
        files: The files; those that are not pictures are skipped.
        sources: Their `Picture.source`.
        on_unreadable: Called with the error of a picture that can't be read, which is then skipped; None raises it.

    Raises:
        UnreadableFileError: A picture is damaged or too large; the message names it.
    """
    for file, source in zip(files, sources, strict=True):
        if not is_picture(file):
            continue
        try:
            yield Picture(file, source, check_picture(file))
        except UnreadableFileError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)


def check_picture(file: Path) -> str:
    """Return the digest of a picture that can be decoded.

    Raises:
        UnreadableFileError: It is damaged, too large, or not a picture.
    """
    library = import_library("PIL.Image", "vision", "reading pictures")
    content = read_bytes(file)
    with reading_as("an image", file):
        image = library.open(io.BytesIO(content), formats=FORMATS)
        if len(content) > MAX_BYTES or image.width * image.height > MAX_PIXELS:
            raise UnreadableFileError(
                f"{file} is too large ({image.width} x {image.height} pixels, {len(content)} bytes)",
                advice=f"make it smaller: at most {MAX_PIXELS} pixels and {MAX_BYTES} bytes",
            )
        image.draft(None, (1, 1))  # a JPEG is decoded at an eighth of its size, which is enough to find damage
        image.load()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
