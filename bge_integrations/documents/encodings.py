"""Decode the bytes of text files: UTF-8, UTF-16 and UTF-32, and older encodings that are guessed."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
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
#: What does not occur in Western European text with marks alone, such as "20 °C" and "it’s": letters, bytes beside each
#: other, and marks other than the apostrophe within a word.
_MORE_THAN_MARKS = re.compile(
    b"[\x8a\x8c\x8e\x9a\x9c\x9e\x9f\xaa\xb5\xba\xc0-\xff]|[\x80-\xff]{2}|[A-Za-z][\x80-\x91\x93-\xff][A-Za-z]"
)
#: UTF-8 with broken characters has more than this many whole ones for each, other than ASCII.
_LEAST_WHOLE = 4
_REPLACED = "\ufffd"
_NOT_ASCII = re.compile("[\x80-\ufffc\U00010000-\U0010ffff]")
#: Control characters, of which texts contain less than one in 20 characters.
_LEAST_CHARACTERS = 20
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
#: How ISO 2022, a Japanese and Korean encoding in ASCII characters, begins.
_ESCAPE = "\x1b$"
#: A letter of another alphabet in a Latin word, which shows that a guess is wrong.
_OTHER = "\u0370-\u05ff\u0600-\u06ff\u0e00-\u0e7f"
_MIXED = re.compile(f"[A-Za-z][{_OTHER}]|[{_OTHER}][A-Za-z]|[a-z][\u3400-\u9fff\uac00-\ud7af][a-z]")
_log = logging.getLogger(__name__)


def decode(data: bytes, file: Path, declared: str = "") -> str:
    """Return the text of a file's bytes, with "\\n" at the ends of its lines.

    An encoding without a byte order mark other than UTF-8 is guessed, which is logged as a warning. So is text in UTF-8
    that has some other bytes, or that was cut off.

    Args:
        data: The bytes.
        file: The file, for messages.
        declared: The encoding that the file says it has; "" if it says nothing.

    Raises:
        UnreadableFileError: This is not text, or its encoding can't be found out.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding, file)
    for encoding in filter(None, ("utf-8", declared)):
        with suppress(UnreadableFileError):
            text = _decoded(data, encoding, file)
            if _is_text(text):
                return text
    text = _with_line_ends(data.decode("utf-8", "replace"))
    if (broken := text.count(_REPLACED)) * _LEAST_WHOLE < len(_NOT_ASCII.findall(text)) and _is_text(text):
        _log.warning("%s has %d characters that are not UTF-8, which were replaced by %s", file, broken, _REPLACED)
        return text
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
        return _with_line_ends(data.decode(encoding))
    except (UnicodeDecodeError, LookupError) as error:
        raise UnreadableFileError(f"{file} is not {encoding.upper()} text", advice="convert it to UTF-8") from error


def _with_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guessed(data: bytes) -> str | None:
    sample = data[:_SAMPLE]
    special = sum(byte >= 0x80 for byte in sample)
    is_marks = _MORE_THAN_MARKS.search(sample) is None
    if special and b"\0" not in data and (is_marks or (special <= _TOO_FEW and special * 4 < len(sample))):
        return _WESTERN
    library = import_library("chardet", "files", "reading text that is not UTF-8")
    guesses = [guess["encoding"] for guess in library.detect_all(sample, ignore_threshold=True)]
    unmixed = (guess for guess in guesses if guess and not _MIXED.search(sample.decode(guess, "ignore")))
    guess = next(unmixed, guesses[0] if guesses else None)
    return _utf_16(sample) or guess if guess and guess.lower().startswith("utf-16") else guess


def _utf_16(sample: bytes) -> str | None:
    """Return the byte order of UTF-16, whose first halves vary little; None if that does not show it."""
    even, odd = len(set(sample[::2])), len(set(sample[1::2]))
    if even > 2 * odd:
        return "utf-16-le"
    return "utf-16-be" if odd > 2 * even else None
