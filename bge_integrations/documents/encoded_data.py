"""Recognise text that is no language at all: Base64, hexadecimal and minified code."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"\w+://\S+")
#: Base64, hexadecimal and other encoded data.
_RUN = re.compile(r"[A-Za-z0-9+/=_-]{40,}")
_SPACE = re.compile(r"\s+")
#: Shorter texts are not taken for minified code.
_LEAST_CHARACTERS = 200
#: Languages and code have more spaces than minified code, in scripts that use spaces.
_LEAST_SPACES, _LEAST_ASCII = 0.05, 0.9


def is_encoded_data(text: str) -> bool:
    """Return whether more than half of a text is encoded data, or all of it is written without spaces."""
    text = _ADDRESS.sub("", text)
    if 2 * sum(map(len, _RUN.findall(text))) > len(text):
        return True
    ascii_characters = len(text.encode("ascii", "ignore"))
    if len(text) < _LEAST_CHARACTERS or ascii_characters < _LEAST_ASCII * len(text):
        return False
    return sum(map(len, _SPACE.findall(text))) < _LEAST_SPACES * len(text)
