"""Substring conditions, which no engine can check: they are replaced by the documents that meet them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bge_integrations.index.filters import AllOf, AnyOf, Contains, IsPoint, Missing, Not, json_path
from bge_integrations.index.records import point_of

if TYPE_CHECKING:
    from bge_integrations.index.engine import Engine
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.store import Store

_PAGE = 1000


def resolve(condition: Condition | None, store: Store) -> Condition | None:
    """Return a condition that engines can check, with the same meaning.

    Each `Contains` reads this value of every document that has it. Documents that are added or changed meanwhile may or
    may not match.
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
    after: str | None = None
    while True:
        with store.read() as engine:
            points, after = _page(condition, engine, after)
        yield from points
        if after is None:
            return


def _page(condition: Contains, engine: Engine, after: str | None) -> tuple[list[str], str | None]:
    keys = ["id", json_path(condition.path)]
    payloads, following = engine.page(Not(Missing(condition.path)), after, _PAGE, keys)
    points = [
        point_of(payload["id"])
        for payload in payloads
        if _contains(_value(payload["metadata"], condition), condition)
    ]
    return points, following


def _value(metadata: object, condition: Contains) -> object:
    for name in condition.path:
        metadata = metadata.get(name) if isinstance(metadata, dict) else None
    return metadata


def _contains(value: object, condition: Contains) -> bool:
    if not isinstance(value, str):
        return False
    return condition.text.lower() in value.lower() if condition.ignore_case else condition.text in value
