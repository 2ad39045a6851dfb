"""The text of an answer, token by token: bytes that are half a character, and stop words that arrive in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_text

#: What tokenizers return for bytes that are not a whole character.
_INCOMPLETE = "\ufffd"


class GeneratedText:
    """Turns generated tokens into pieces of text, up to the first stop word.

    Args:
        tokenizer: transformers' tokenizer.
        stop: The stop words. They are not part of the text.

    Attributes:
        text: The text so far, held-back characters excluded.
        is_stopped: Whether a stop word was found.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._ids: list[int] = []
        self._decoded_ids = self._context = 0  # tokens that are text already, and where their context begins
        self._held = ""
        self.text = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Add a token; return the new text, which may be empty because more tokens are needed."""
        self._ids.append(token)
        return self._release(self._decode(is_end=False), is_end=False)

    def finish(self) -> str:
        """Return the text that was held back, after the last token."""
        return "" if self.is_stopped else self._release(self._decode(is_end=True), is_end=True)

    def _decode(self, is_end: bool) -> str:
        """Return the new characters; a token's text depends on the tokens before it, so these are decoded too."""
        before = self._text_of(self._ids[self._context : self._decoded_ids])
        now = self._text_of(self._ids[self._context :])
        if (now.endswith(_INCOMPLETE) or len(now) <= len(before)) and not is_end:
            return ""
        self._context, self._decoded_ids = self._decoded_ids, len(self._ids)
        return now[len(before) :]

    def _text_of(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _release(self, new: str, is_end: bool) -> str:
        """Return what can be shown; hold back an ending that may become a stop word."""
        self._held += new
        found = [(self._held.find(word), word) for word in self._stop if word in self._held]
        if found:
            self.is_stopped = True
            shown, self._held = self._held[: min(found)[0]], ""
        else:
            held = 0 if is_end else max((_overlap(self._held, word) for word in self._stop), default=0)
            cut = len(self._held) - held
            shown, self._held = self._held[:cut], self._held[cut:]
        self.text += shown
        return shown


def check_stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return stop words as a tuple.

    Raises:
        InvalidInputError: One of them is empty or not a str.
    """
    words = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for i, word in enumerate(words):
        check_text(word, f"stop[{i}]")
        if not word:
            raise InvalidInputError(f"stop[{i}] is empty", argument="stop", advice="leave it out")
    return words


def _overlap(text: str, word: str) -> int:
    """Return how many of the last characters of `text` are the first of `word`."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
