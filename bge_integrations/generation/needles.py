"""Documents with facts to find, written in the few words that the pocket generator knows.

A document is made of sentences of five tokens: facts such as "Anna lives in Rome." among sentences that say nothing of
interest. The pocket generator was trained on such documents, and knows nothing else. It finds a single fact; among
several, it does not choose by the name.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karin", "Leo")
CITIES = ("Athens", "Berlin", "Cairo", "Dublin", "Geneva", "Lima", "London", "Madrid", "Oslo", "Paris", "Rome", "Tokyo")
ADJECTIVES = ("old", "young", "small", "big", "red", "blue", "quiet", "happy", "tired", "hungry")
THINGS = ("dog", "cat", "horse", "bird", "fish", "tree", "house", "river", "train", "clock")
VERBS = ("sleeps", "waits", "moves", "rests", "stays", "works", "sings", "falls", "runs", "stops")


@dataclass(frozen=True)
class NeedleDocument:
    """A document and the facts in it.

    Attributes:
        text: The document.
        facts: {name: city}, in the order in which they are in the document.
    """

    text: str
    facts: dict[str, str]


def needle_document(sentences: int, facts: int, seed: int) -> NeedleDocument:
    """Return a document of so many sentences, with this many facts at random places; the same for the same seed.

    Args:
        sentences: Number of sentences; each is five tokens long.
        facts: How many of them are facts, at most 12.
        seed: Seed of the random choices.
    """
    chosen = random.Random(seed)
    places = sorted(chosen.sample(range(sentences), facts))
    told = dict(zip(chosen.sample(NAMES, facts), chosen.choices(CITIES, k=facts), strict=True))
    by_place = dict(zip(places, told.items(), strict=True))
    lines = []
    for i in range(sentences):
        if i in by_place:
            name, city = by_place[i]
            lines.append(f"{name} lives in {city}.")
        else:
            lines.append(f"The {chosen.choice(ADJECTIVES)} {chosen.choice(THINGS)} {chosen.choice(VERBS)}.")
    return NeedleDocument(" ".join(lines), told)


def question(name: str) -> str:
    """Return the question about a name."""
    return f"Where does {name} live?"
