"""Mend the text of PDFs: presentation forms, halves of characters, and words divided at line ends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Characters that are only another form of a letter: ligatures, Hebrew and Arabic presentation forms, radicals and
#: compatibility ideographs, mathematical alphabets. Superscripts and fractions mean something else and stay.
_FORMS = re.compile(
    "[\u2e80-\u2fd5\uf900-\ufaff\ufb00-\ufb4f\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc\U0001d400-\U0001d7ff\U0002f800-\U0002fa1f]"
)
_HYPHENS = "-\u2010"
_WORD = re.compile(rf"[^\W\d_]+(?:[{_HYPHENS}][^\W\d_]+)*")
#: A word whose second part is on the next line.
_DIVIDED = re.compile(rf"((?:[^\W\d_]+[{_HYPHENS}])*[^\W\d_]+)([{_HYPHENS}])[ \t]*\n[ \t]*([^\W\d_]+)")
#: What follows the hyphen of a part that stands for a whole word: "pre- and post-war".
_CONJUNCTIONS = frozenset(
    [
        "and",
        "or",
        "to",
        "nor",
        "und",
        "oder",
        "bzw",
        "sowie",
        "bis",
        "et",
        "ou",
        "en",
        "of",
        "e",
        "ed",
        "o",
        "y",
        "og",
        "och",
    ]
)
#: First parts that are written with a hyphen before any word, and the endings that make another word of them.
_ALWAYS_HYPHENATED = frozenset(["half", "quasi", "self", "well"])
_ENDINGS = frozenset(
    [
        "being",
        "come",
        "fare",
        "ing",
        "ington",
        "ish",
        "ishly",
        "ishness",
        "less",
        "lessly",
        "lessness",
        "ness",
        "s",
        "spring",
        "way",
    ]
)
#: Second parts that are written with a hyphen after a word, but not after these prefixes.
_HYPHENATED_AFTER_WORDS = frozenset(
    [
        "aware",
        "based",
        "dependent",
        "dimensional",
        "driven",
        "effective",
        "efficient",
        "friendly",
        "grained",
        "intensive",
        "known",
        "oriented",
        "purpose",
        "resistant",
        "sensitive",
        "sized",
        "specific",
        "supervised",
        "trained",
    ]
)
_PREFIXES = frozenset(["dis", "inter", "intra", "mis", "non", "out", "over", "sub", "trans", "uni", "under"])
#: Parts of which two together are written with a hyphen: "long-term", "real-time".
_FIRST_PARTS = frozenset(
    [
        "cross",
        "deep",
        "double",
        "eight",
        "end",
        "fine",
        "first",
        "five",
        "four",
        "full",
        "hard",
        "high",
        "large",
        "light",
        "long",
        "low",
        "mid",
        "multi",
        "nine",
        "one",
        "open",
        "part",
        "real",
        "second",
        "seven",
        "short",
        "single",
        "six",
        "small",
        "soft",
        "state",
        "ten",
        "third",
        "three",
        "top",
        "two",
        "wide",
        "zero",
    ]
)
_SECOND_PARTS = frozenset(
    [
        "class",
        "dimensional",
        "end",
        "ended",
        "grained",
        "layer",
        "level",
        "life",
        "order",
        "party",
        "quality",
        "range",
        "scale",
        "sided",
        "source",
        "speed",
        "stage",
        "standing",
        "step",
        "term",
        "time",
        "to",
        "way",
        "wide",
        "world",
        "year",
    ]
)


def normalise(text: str) -> str:
    """Expand presentation forms, join surrogate halves, and compose letters and accents.

    What can't be mended becomes U+FFFD. NUL characters, which broken character tables produce, are removed.
    """
    text = text.replace("\x00", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", _FORMS.sub(_expanded, text))


def _expanded(match: re.Match[str]) -> str:
    plain = unicodedata.normalize("NFKC", match[0])
    return match[0] if plain.startswith(" ") else plain  # accents on their own


def join_divided_words(pages: Sequence[str]) -> list[str]:
    """Join words that are divided at line ends: "fire-\\nwall" becomes "firewall", and "well-\\nknown" "well-known".

    The words of all pages show how a word is written.
    """
    pages = [re.sub("\u00ad(?:[ \t]*\n[ \t]*)?", "", page) for page in pages]
    words = {word.lower() for page in pages for word in _WORD.findall(_DIVIDED.sub(" ", page))}

    def joined(match: re.Match[str]) -> str:
        first, hyphen, second = match.groups()
        if second.lower() in _CONJUNCTIONS:
            return match[0]
        return first + (hyphen if _is_hyphenated(first, hyphen, second, words) else "") + second

    return [_DIVIDED.sub(joined, page) for page in pages]


def _is_hyphenated(first: str, hyphen: str, second: str, words: set[str]) -> bool:
    """Return whether a divided word is written with a hyphen; `words` are the words of the document."""
    if (first + second).lower() in words:
        return False
    if (first + hyphen + second).lower() in words:
        return True
    if len(first) == 1 or not second.islower() or any(mark in first for mark in _HYPHENS):
        return True  # e-mail, Anglo-Saxon, state-of-the-art
    start = first.lower()
    if start in _ALWAYS_HYPHENATED:
        return second not in _ENDINGS
    if second in _HYPHENATED_AFTER_WORDS:
        return len(start) > 2 and start not in _PREFIXES
    return start in _FIRST_PARTS and second in _SECOND_PARTS and start + second not in {"highway", "midway"}
