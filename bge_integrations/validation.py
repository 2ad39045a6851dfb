"""Argument checks: a mistake raises InvalidInputError before anything is computed."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder


def check_texts(texts: object, argument: str) -> list[str]:
    """Return `texts` as a list of str that the tokenizer can read.

    Raises:
        InvalidInputError: It is not a list, or an element is not a str or contains a lone surrogate; the message names
            the element.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError(f"{argument} must be a list of texts, got one {type(texts).__name__}; wrap it: [text]")
    checked = check_list(texts, argument, "texts")
    for i, text in enumerate(checked):
        check_text(text, f"{argument}[{i}]")
    return checked


def check_list(values: object, argument: str, what: str) -> list[Any]:
    """Return what can be iterated over as a list, or raise InvalidInputError."""
    if not can_be_iterated(values):
        raise InvalidInputError(f"{argument} must be a list of {what}, got {type(values).__name__}", argument=argument)
    return list(values)  # type: ignore[call-overload, no-any-return]


def can_be_iterated(values: object) -> bool:
    """Return whether `values` is iterable; an array without dimensions is not, although its class is."""
    try:
        iter(values)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def check_not_dict(texts: object) -> None:
    """Raise InvalidInputError if `texts` is a dict, whose keys would be taken as the texts."""
    if isinstance(texts, Mapping):
        raise InvalidInputError(
            f"texts must be a list of texts, got a {type(texts).__name__}; did you mean list(texts.values())?"
        )


def check_query(text: object) -> list[str]:
    """Return one text as a list, which the core expects."""
    if not isinstance(text, str):
        raise InvalidInputError(f"a query must be one str, got {type(text).__name__}")
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
                f"{argument} contains a lone surrogate at character {error.start}, which is not valid text; clean it "
                "with text.encode('utf-8', 'replace').decode()"
            ) from error


def check_takes_images(embedder: Embedder) -> Embedder:
    """Return an embedder that takes images.

    Raises:
        InvalidInputError: It takes no images.
    """
    if not embedder.takes_images:
        raise InvalidInputError(
            f"{embedder.name} takes no images", argument="model", advice="use BAAI/BGE-VL-base, or another image model"
        )
    return embedder


def has_words(text: str) -> bool:
    """Return whether a text says anything: it has a letter, a digit or a symbol such as an emoji."""
    return any(character.isalnum() or unicodedata.category(character) == "So" for character in text)


def check_path(path: object, argument: str) -> str:
    """Return a path as a str.

    Raises:
        InvalidInputError: It is neither a str nor path-like, or no file can have this name, because it contains a null
            character or a lone surrogate.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise InvalidInputError(f"{argument} must be a path, got {type(path).__name__}", argument=argument)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise InvalidInputError(f"{argument}={name!r} can't be the name of a file", argument=argument)
    return name


def check_whole_number(number: object, argument: str, *, least: int = 1, most: int | None = None) -> int:
    """Return `number`, or raise InvalidInputError unless it is an int from `least` to `most` (None: no upper limit)."""
    fits = isinstance(number, int) and not isinstance(number, bool)
    if fits and number >= least and (most is None or number <= most):  # type: ignore[operator]
        return number  # type: ignore[return-value]
    allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise InvalidInputError(f"{spelled(argument, number)} must be a whole number {allowed}", argument=argument)


def check_choice(value: object, argument: str, choices: Iterable[str | bool | None]) -> None:
    """Raise InvalidInputError unless `value` is one of `choices`."""
    allowed = list(choices)
    if not isinstance(value, str | bool | None) or value not in allowed:
        raise InvalidInputError(
            f"{spelled(argument, value)} is not one of {', '.join(map(repr, allowed))}", argument=argument
        )


def check_top_n(top_n: object) -> int | None:
    """Return `top_n`: None, or an int of at least 1."""
    if top_n is None:
        return None
    try:
        return check_whole_number(top_n, "top_n")
    except InvalidInputError as error:
        raise InvalidInputError(f"{error}, or None to keep all") from None


def check_score_threshold(score_threshold: float | None) -> float | None:
    """Return `score_threshold`: None, or a number that is not NaN."""
    if score_threshold is None:
        return None
    if not isinstance(score_threshold, Real) or isinstance(score_threshold, bool):
        raise InvalidInputError(
            f"score_threshold={score_threshold!r} must be a number, or None to keep all", argument="score_threshold"
        )
    if math.isnan(score_threshold):
        raise InvalidInputError("score_threshold=nan would drop everything; use a number, or None")
    return score_threshold


def check_on_truncate(on_truncate: object) -> None:
    """Raise InvalidInputError unless it is "warn", "error" or "ignore"."""
    check_choice(on_truncate, "on_truncate", ("warn", "error", "ignore"))
