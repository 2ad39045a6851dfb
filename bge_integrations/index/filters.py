"""The filter language: conditions on a document's metadata, with the same meaning on every engine.

    {"year": 2020}                                   equality; a list matches if one of its elements does
    {"year": {"$gte": 2000, "$lt": 2010}}            $gt, $gte, $lt, $lte: numbers, or ISO dates
    {"lang": {"$in": ["de", "en"]}}                  also $nin, $eq, $ne
    {"author.name": "Eco"}                           a dot enters a nested dict; '"a.b"' is the key a.b
    {"isbn": {"$exists": False}}                     missing, None or []
    {"title": {"$contains": "git"}}                  text that contains this text; $icontains ignores case
    {"$or": [{"year": 2020}, {"lang": "de"}]}        also $and, and {"$not": {...}}
    {"$ids": ["a", "b"]}                             the document has one of these ids

All keys of a dict must match. `$ne`, `$nin` and `$not` also match documents that lack the key. `$contains` and
`$icontains` match only text, never the elements of a list. No engine has them, so they cost more the more documents
match, and most for a key without an index (see `substrings.py`).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.records import point_of
from bge_integrations.validation import check_text

Filter = Mapping[str, Any]
Path = tuple[str, ...]

_MAX_DEPTH = 32
#: Integers up to this are exact as floats, and engines compare ranges as floats.
_MAX_EXACT = 2**53
_PART = re.compile(r'"([^"\\]+)"|([^."\\\[\]]+)')
_RANGES = ("$gt", "$gte", "$lt", "$lte")
_SUBSTRINGS = ("$contains", "$icontains")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_RANGES, "$exists", *_SUBSTRINGS)


@dataclass(frozen=True)
class Matches:
    """The value is one of these: any number of str, or one int or bool."""

    path: Path
    values: tuple[str, ...] | tuple[int] | tuple[bool]


@dataclass(frozen=True)
class Between:
    """The value lies within the bounds, which are all numbers or all dates (in UTC if they have no time zone)."""

    path: Path
    gt: float | datetime | None = None
    gte: float | datetime | None = None
    lt: float | datetime | None = None
    lte: float | datetime | None = None


@dataclass(frozen=True)
class Missing:
    """There is no value: the key is missing, None or []."""

    path: Path


@dataclass(frozen=True)
class Contains:
    """The value is a str that contains this text. `substrings.resolve` replaces it before an engine sees it."""

    path: Path
    text: str
    ignore_case: bool


@dataclass(frozen=True)
class IsPoint:
    """The document is one of these points of the engine."""

    points: frozenset[str]


@dataclass(frozen=True)
class AllOf:
    """All conditions hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one condition holds. An empty list matches nothing."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The condition does not hold."""

    condition: Condition


Condition = Matches | Between | Missing | Contains | IsPoint | AllOf | AnyOf | Not


def parse(filter: object) -> Condition:
    """Return the condition that `filter` expresses.

    Raises:
        InvalidInputError: The filter is invalid; the message says which part, and what is allowed there.
    """
    return _all(filter, "filter", 0)


def json_path(path: Path) -> str:
    """Return an engine's path for a key. Each part is quoted, so that it can contain dots, spaces and brackets."""
    return ".".join(["metadata", *(f'"{name}"' for name in path)])


def key_of(json_path: str) -> str:
    """Return the key for an engine's path with one part. Engines omit quotes that the part does not need."""
    return json_path.removeprefix("metadata.").strip('"')


def can_be_named(key: str) -> bool:
    """Return whether engines can address this key: quoted names can't contain quotes or backslashes."""
    return bool(key) and '"' not in key and "\\" not in key


def dated_keys(condition: Condition) -> set[str]:
    """Return the metadata keys that are compared with dates."""
    match condition:
        case AllOf(conditions) | AnyOf(conditions):
            return set().union(*map(dated_keys, conditions))
        case Not(inner):
            return dated_keys(inner)
        case Between((key,)) if any(isinstance(bound, datetime) for bound in vars(condition).values()):
            return {key}
    return set()


def _all(filter: object, where: str, depth: int) -> Condition:
    if depth > _MAX_DEPTH:
        raise InvalidInputError(f"the filter is nested more than {_MAX_DEPTH} levels deep", advice="flatten it")
    if not isinstance(filter, Mapping):
        raise InvalidInputError(f"{where} must be a dict such as {{'year': {{'$gte': 2000}}}}, got {filter!r:.80}")
    if not filter:
        raise InvalidInputError(f"{where} is empty", advice="leave it out, or use {key: value}")
    conditions = [_one(key, value, f"{where}[{key!r}]", depth) for key, value in filter.items()]
    return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))


def _one(key: object, value: object, where: str, depth: int) -> Condition:
    if not isinstance(key, str) or not key:
        raise InvalidInputError(f"{where} is not a valid key", advice="use a metadata key, $and, $or, $not or $ids")
    if key in ("$and", "$or"):
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidInputError(f"{where} must be a list of filters with at least one, got {value!r:.80}")
        conditions = tuple(_all(part, f"{where}[{i}]", depth + 1) for i, part in enumerate(value))
        return AllOf(conditions) if key == "$and" else AnyOf(conditions)
    if key == "$not":
        return Not(_all(value, where, depth + 1))
    if key == "$ids":
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidInputError(f"{where} must be a list of ids, got {value!r:.80}")
        return IsPoint(frozenset(point_of(_plain_str(identifier, where)) for identifier in value))
    if key.startswith("$"):
        raise InvalidInputError(
            f"{where}: {key} is not one of $and, $or, $not, $ids",
            advice="put operators after a key: {'year': {'$gte': 2000}}",
        )
    check_text(key, where)
    path = _path(key, where)
    if not isinstance(value, Mapping):
        return _equals(path, value, where)
    return _operators(path, value, where)


def _path(key: str, where: str) -> Path:
    parts: list[str] = []
    end = 0
    for match in _PART.finditer(key):
        if match.start() != (end + 1 if parts else 0) or (parts and key[end] != "."):
            break
        parts.append(match[1] or match[2])
        end = match.end()
    if end != len(key):
        raise InvalidInputError(
            f"{where} is not a valid key",
            advice="separate names with dots, and put names that contain . [ or ] in quotes: '\"a.b\"' "
            "(names can't contain \" or \\)",
        )
    return tuple(parts)


def _operators(path: Path, operators: Mapping[Any, Any], where: str) -> Condition:
    unknown = [operator for operator in operators if operator not in _OPERATORS]
    if unknown or not operators:
        wrong = f"unknown operators {unknown}" if unknown else "no operator"
        raise InvalidInputError(f"{where} has {wrong}", advice=f"use {', '.join(_OPERATORS)}")
    conditions = [
        _operator(path, operator, value, f"{where}[{operator!r}]")
        for operator, value in operators.items()
        if operator not in _RANGES
    ]
    if bounds := {operator: operators[operator] for operator in _RANGES if operator in operators}:
        conditions.append(_between(path, bounds, where))
    return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))


def _operator(path: Path, operator: str, value: object, where: str) -> Condition:
    if operator == "$exists":
        if not isinstance(value, bool):
            raise InvalidInputError(f"{where} must be True or False, got {value!r:.80}")
        return Not(Missing(path)) if value else Missing(path)
    if operator in _SUBSTRINGS:
        if not isinstance(value, str):
            raise InvalidInputError(f"{where} must be a str, got {value!r:.80}")
        return Contains(path, _plain_str(value, where), ignore_case=operator == "$icontains")
    condition = _equals(path, value, where) if operator in ("$eq", "$ne") else _one_of(path, value, where)
    return Not(condition) if operator in ("$ne", "$nin") else condition


def _equals(path: Path, value: object, where: str) -> Condition:
    if isinstance(value, str):
        return Matches(path, (_plain_str(value, where),))
    if isinstance(value, bool):
        return Matches(path, (value,))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidInputError(f"{where} compares with {value!r:.80}; integers must fit into 64 bits")
    if isinstance(value, int) and abs(value) >= _MAX_EXACT:
        return Matches(path, (value,))
    if isinstance(value, (int, float)) and math.isfinite(value):
        return Between(path, gte=float(value), lte=float(value))  # so that 2 and 2.0 are equal
    instead = {"NoneType": "{'$exists': False}", "list": "{'$in': [...]}"}.get(type(value).__name__)
    raise InvalidInputError(
        f"{where} compares with {value!r:.80}", advice=f"use {instead or 'a str, a finite number or a bool'}"
    )


def _one_of(path: Path, values: object, where: str) -> Condition:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise InvalidInputError(f"{where} must be a list of values, got {values!r:.80}")
    strings = tuple(_plain_str(value, where) for value in values if isinstance(value, str))
    others = [_equals(path, value, where) for value in values if not isinstance(value, str)]
    conditions = ([Matches(path, strings)] if strings else []) + others
    return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))


def _plain_str(value: str, where: str) -> str:
    """Return the value as a plain str, even if it is a member of an Enum."""
    check_text(value, where)
    return str.__str__(value)


def _between(path: Path, bounds: Mapping[str, object], where: str) -> Condition:
    checked = {operator: _bound(value, f"{where}[{operator!r}]") for operator, value in bounds.items()}
    if len({type(bound) for bound in checked.values()}) > 1:
        raise InvalidInputError(f"{where} has a number and a date as bounds", advice="use either numbers or dates")
    named = {operator[1:]: bound for operator, bound in checked.items()}
    if {"gt", "gte"} <= named.keys() or {"lt", "lte"} <= named.keys():  # engines use only one bound per side
        return AllOf(tuple(Between(path, **{name: bound}) for name, bound in named.items()))
    return Between(path, **named)


def _bound(value: object, where: str) -> float | datetime:
    if isinstance(value, str):
        try:
            date = datetime.fromisoformat(value)
            return date.astimezone(UTC) if date.tzinfo else date
        except (ValueError, OverflowError) as error:
            raise InvalidInputError(
                f"{where} is {value!r:.80}",
                advice="use a number, or an ISO date such as 2024-05-31 or 2024-05-31T10:00:00",
            ) from error
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise InvalidInputError(f"{where} is {value!r:.80}", advice="use a finite number or an ISO date")
