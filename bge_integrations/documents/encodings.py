"""Decode the bytes of text files: UTF-8, UTF-16 and UTF-32, and older encodings that are guessed."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from bge_integrations.errors import UnreadableFileError
from bge_integrations.optional import import_library

#: Byte order marks; UTF-32's begins with UTF-16's.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
#: Bytes that the encoding is guessed from.
_SAMPLE = 200_000
#: Up to this many bytes that are not ASCII are too few for a guess. Western European is the most frequent encoding.
_TOO_FEW = 2
_WESTERN = "cp1252"
#: Control characters, of which texts contain less than one in 20 characters.
_LEAST_CHARACTERS = 20
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
#: How ISO 2022, a Japanese and Korean encoding in ASCII characters, begins.
_ESCAPE = "\x1b$"
#: A letter of another alphabet in a Latin word, which shows that a guess is wrong.
_OTHER = "\u0370-\u05ff\u0600-\u06ff\u0e00-\u0e7f"
_MIXED = re.compile(f"[A-Za-z][{_OTHER}]|[{_OTHER}][A-Za-z]")
_log = logging.getLogger(__name__)


def decode(data: bytes, file: Path) -> str:
    """Return the text of a file's bytes, with "\\n" at the ends of its lines.

    An encoding without a byte order mark other than UTF-8 is guessed, which is logged as a warning.

    Raises:
        UnreadableFileError: This is not text, or its encoding can't be found out.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding, file)
    try:
        text = _decoded(data, "utf-8", file)
        if _is_text(text):
            return text
    except UnreadableFileError:
        pass
    guessed = _guessed(data)
    if guessed is None:
        raise UnreadableFileError(f"{file} is not text, or in an unknown encoding", advice="convert it to UTF-8")
    text = _decoded(data, guessed, file)
    if not _is_text(text):
        raise UnreadableFileError(f"{file} is not text", advice="convert it, or move it out of the folder")
    _log.warning("%s is not UTF-8, and was read as %s; if that is wrong, convert it to UTF-8", file, guessed)
    return text


def _is_text(text: str) -> bool:
    return _ESCAPE not in text and len(_CONTROL.findall(text)) * _LEAST_CHARACTERS <= len(text)


def _decoded(data: bytes, encoding: str, file: Path) -> str:
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except (UnicodeDecodeError, LookupError) as error:
        raise UnreadableFileError(f"{file} is not {encoding.upper()} text", advice="convert it to UTF-8") from error


def _guessed(data: bytes) -> str | None:
    special = sum(byte >= 0x80 for byte in data[:_SAMPLE])
    if 0 < special <= _TOO_FEW and special * 4 < len(data[:_SAMPLE]) and b"\0" not in data:
        return _WESTERN
    library = import_library("chardet", "files", "reading text that is not UTF-8")
    sample = data[:_SAMPLE]
    guesses = [guess["encoding"] for guess in library.detect_all(sample, ignore_threshold=True)]
    unmixed = (guess for guess in guesses if guess and not _MIXED.search(sample.decode(guess, "ignore")))
    return next(unmixed, guesses[0] if guesses else None)
