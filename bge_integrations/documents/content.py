"""What a file contains, as its reader returns it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bge_integrations.documents.blocks import Layout
from bge_integrations.errors import UnreadableFileError

#: A value of a file's metadata, such as its author or date.
Property = str | int | float | bool
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Part:
    """A part of a file. No passage contains text of two parts.

    Attributes:
        text: Its text.
        page: The number of the page, slide or sheet, from 1; None if the file has none.
        section: The name of the sheet, or "".
    """

    text: str
    page: int | None = None
    section: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Attributes:
        parts: The parts of its text; one for most files.
        title: Its title; "" if it has none.
        layout: How the text is written.
        properties: What the file says about itself, such as its author and date.
    """

    parts: Sequence[Part]
    title: str = ""
    layout: Layout = "text"
    properties: Mapping[str, Property] = field(default_factory=dict)


def whole_characters(text: str) -> str:
    """Replace halves of surrogate pairs, which can't be encoded, by U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def read_bytes(file: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        UnreadableFileError: The system refuses to read it.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error


@contextmanager
def reading_as(kind: str, file: Path) -> Iterator[None]:
    """Raise the errors of a library that reads a file as UnreadableFileError; libraries raise many kinds of errors.

    Raises:
        UnreadableFileError: The file is damaged, or nested too deeply.
        ImportError: The library is not installed.
    """
    try:
        yield
    except (UnreadableFileError, ImportError):
        raise
    except RecursionError as error:
        raise UnreadableFileError(
            f"{file} is nested too deeply", advice="save it as text, or with fewer levels"
        ) from error
    except OSError as error:
        if error.strerror is None:
            raise _damaged(kind, file, error) from error
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    except Exception as error:
        raise _damaged(kind, file, error) from error


def _damaged(kind: str, file: Path, error: Exception) -> UnreadableFileError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UnreadableFileError(f"{file} can't be read as {kind} ({reason})", advice="repair it, or save it anew")
