"""Checks of what callers pass: a mistake is an InvalidInputError that names its place, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from bge_integrations.errors import InvalidInputError


def check_texts(texts: object, argument: str) -> list[str]:
    """`texts` as a list of str that the tokenizer can read.

    Raises:
        InvalidInputError: Not a list, or an element is no str or holds lone surrogates; the message has its place.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError(f"{argument} must be a list of texts, got one {type(texts).__name__}; wrap it: [text]")
    if not isinstance(texts, Iterable):
        raise InvalidInputError(f"{argument} must be a list of texts, got {type(texts).__name__}")
    found = list(texts)
    for i, text in enumerate(found):
        check_text(text, f"{argument}[{i}]")
    return found


def path_as_text(model: object) -> object:
    """A path as its text, for settings that are kept as text; anything else as it is."""
    return os.fspath(model) if isinstance(model, os.PathLike) else model


def check_query(text: object) -> list[str]:
    """One text as the list that the core takes."""
    if not isinstance(text, str):
        raise InvalidInputError(f"a query is one str, got {type(text).__name__}")
    return [text]


def check_text(text: object, argument: str) -> None:
    """Raise InvalidInputError unless `text` is a str without lone surrogates."""
    if not isinstance(text, str):
        raise InvalidInputError(f"{argument} must be a str, got {type(text).__name__}; leave it out or convert it")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"{argument} holds a lone surrogate at character {error.start}, which is no valid text; clean it with "
                "text.encode('utf-8', 'replace').decode()"
            ) from error


def check_whole_number(number: object, largest: int, argument: str) -> None:
    """Raise InvalidInputError unless `number` is an int from 1 to `largest`."""
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= largest:
        raise InvalidInputError(f"{argument}={number!r} must be a whole number from 1 to {largest} for this model")


def check_on_truncate(on_truncate: object) -> None:
    if on_truncate not in ("warn", "error", "ignore"):
        raise InvalidInputError(f"on_truncate={on_truncate!r} is none of 'warn', 'error', 'ignore'")
