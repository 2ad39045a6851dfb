"""Substring conditions, which no engine can check: they are replaced by the documents that meet them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bge_integrations.index.filters import AllOf, AnyOf, Contains, IsPoint, Matches, Missing, Not, json_path
from bge_integrations.index.records import point_of

if TYPE_CHECKING:
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.store import Store

_PAGE = 1000


def resolve(condition: Condition | None, store: Store) -> Condition | None:
    """Return a condition that engines can check, with the same meaning.

    For a key with an index, each `Contains` asks the engine for the distinct values, and reads the documents with a
    value that contains the text. For another key, it reads every document that has the key. Documents that are added or
    changed meanwhile may or may not match.
    """
    match condition:
        case Contains():
            return IsPoint(frozenset(_containing(condition, store)))
        case AllOf(conditions) | AnyOf(conditions):
            return type(condition)(tuple(_resolved(part, store) for part in conditions))
        case Not(inner):
            return Not(_resolved(inner, store))
    return condition


def _resolved(condition: Condition, store: Store) -> Condition:
    resolved = resolve(condition, store)
    assert resolved is not None
    return resolved


def _containing(condition: Contains, store: Store) -> Iterator[str]:
    """Yield the points that meet a condition. Pages are read one by one, so that writers do not wait for all."""
    possible = _possible(condition, store)
    keys = ["id", json_path(condition.path)]
    after: str | None = None
    while True:
        with store.read() as engine:
            payloads, after = engine.page(possible, after, _PAGE, keys)
        for payload in payloads:
            if _contains(_value(payload["metadata"], condition), condition):
                yield point_of(payload["id"])
        if after is None:
            return


def _possible(condition: Contains, store: Store) -> Condition:
    """Return a condition for engines that holds wherever this one does: it also holds for elements of lists."""
    key = condition.path[0]
    if len(condition.path) > 1 or store.shared.fields.get(key) != "keyword":
        return Not(Missing(condition.path))
    with store.read() as engine:
        texts = engine.texts(key)
    containing = tuple(text for text in texts if _contains(text, condition))
    return Matches(condition.path, containing) if containing else AnyOf(())


def _value(metadata: object, condition: Contains) -> object:
    for name in condition.path:
        metadata = metadata.get(name) if isinstance(metadata, dict) else None
    return metadata


def _contains(value: object, condition: Contains) -> bool:
    if not isinstance(value, str):
        return False
    return condition.text.lower() in value.lower() if condition.ignore_case else condition.text in value
