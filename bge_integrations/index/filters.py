"""The filter language: conditions on a document's metadata, the same on every engine.

    {"year": 2020}                                   equality; a list in the metadata matches by one of its elements
    {"year": {"$gte": 2000, "$lt": 2010}}            $gt, $gte, $lt, $lte: numbers, or ISO dates
    {"lang": {"$in": ["de", "en"]}}                  also $nin, $eq, $ne
    {"author.name": "Eco"}                           a dotted key goes into a nested dict; '"a.b"' is the key a.b itself
    {"isbn": {"$exists": False}}                     missing, None or []
    {"$or": [{"year": 2020}, {"lang": "de"}]}        also $and, and {"$not": {...}}

Several keys in one dict must all match. `$ne`, `$nin` and `$not` also match documents that lack the key.
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
from bge_integrations.validation import check_text

Filter = Mapping[str, Any]
Path = tuple[str, ...]

_DEEPEST = 32
#: Whole numbers below this are each a float of their own; engines compare ranges as floats.
_LARGEST_EXACT = 2**53
_PART = re.compile(r'"([^"\\]+)"|([^."\\\[\]]+)')
_RANGES = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_RANGES, "$exists")


@dataclass(frozen=True)
class Matches:
    """The value is one of these: str, or one int or bool."""

    path: Path
    values: tuple[str, ...] | tuple[int] | tuple[bool]


@dataclass(frozen=True)
class Between:
    """The value lies within the bounds given, all numbers or all dates (in UTC where they name no zone)."""

    path: Path
    gt: float | datetime | None = None
    gte: float | datetime | None = None
    lt: float | datetime | None = None
    lte: float | datetime | None = None


@dataclass(frozen=True)
class Missing:
    """There is no value: no key, None or []."""

    path: Path


@dataclass(frozen=True)
class AllOf:
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one holds; none of none does."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    condition: Condition


Condition = Matches | Between | Missing | AllOf | AnyOf | Not


def parse(filter: object) -> Condition:
    """The condition that `filter` writes down.

    Raises:
        InvalidInputError: It can't be understood; the message says which part, and what can stand there.
    """
    return _all(filter, "filter", 0)


def json_path(path: Path) -> str:
    """How engines name a key: each name in quotes, so that dots, spaces and brackets in it stay what they are."""
    return ".".join(["metadata", *(f'"{name}"' for name in path)])


def key_of(json_path: str) -> str:
    """The key behind the path of a single name; engines leave out quotes that it does not need."""
    return json_path.removeprefix("metadata.").strip('"')


def can_be_named(key: str) -> bool:
    """Whether engines can name this key: within quotes there is no way to write these two."""
    return bool(key) and '"' not in key and "\\" not in key


def dated_keys(condition: Condition) -> set[str]:
    """The keys of the metadata that are compared with dates."""
    match condition:
        case AllOf(conditions) | AnyOf(conditions):
            return set().union(*map(dated_keys, conditions))
        case Not(inner):
            return dated_keys(inner)
        case Between((key,)) if any(isinstance(bound, datetime) for bound in vars(condition).values()):
            return {key}
    return set()


def _all(filter: object, place: str, depth: int) -> Condition:
    if depth > _DEEPEST:
        raise InvalidInputError(f"the filter is nested more than {_DEEPEST} deep; flatten it")
    if not isinstance(filter, Mapping):
        raise InvalidInputError(f"{place} must be a dict such as {{'year': {{'$gte': 2000}}}}, got {filter!r:.80}")
    if not filter:
        raise InvalidInputError(f"{place} is empty; leave it out, or write {{key: value}}")
    conditions = [_one(key, value, f"{place}[{key!r}]", depth) for key, value in filter.items()]
    return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))


def _one(key: object, value: object, place: str, depth: int) -> Condition:
    if not isinstance(key, str) or not key:
        raise InvalidInputError(f"{place}: keys are names of metadata, not empty, or $and, $or, $not")
    if key in ("$and", "$or"):
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidInputError(f"{place} must be a list of filters, at least one; got {value!r:.80}")
        conditions = tuple(_all(part, f"{place}[{i}]", depth + 1) for i, part in enumerate(value))
        return AllOf(conditions) if key == "$and" else AnyOf(conditions)
    if key == "$not":
        return Not(_all(value, place, depth + 1))
    if key.startswith("$"):
        raise InvalidInputError(
            f"{place}: {key} is none of $and, $or, $not; operators stand after a key: {{'year': …}}"
        )
    check_text(key, place)
    path = _path(key, place)
    if not isinstance(value, Mapping):
        return _equals(path, value, place)
    return _operators(path, value, place)


def _path(key: str, place: str) -> Path:
    parts: list[str] = []
    end = 0
    for match in _PART.finditer(key):
        if match.start() != (end + 1 if parts else 0) or (parts and key[end] != "."):
            break
        parts.append(match[1] or match[2])
        end = match.end()
    if end != len(key):
        raise InvalidInputError(
            f"{place}: a key is a name or names with dots between; put a name that has . [ or ] in quotes: '\"a.b\"' "
            '(none can have " or \\)'
        )
    return tuple(parts)


def _operators(path: Path, operators: Mapping[Any, Any], place: str) -> Condition:
    unknown = [operator for operator in operators if operator not in _OPERATORS]
    if unknown or not operators:
        raise InvalidInputError(f"{place} has {unknown or 'no operator'}; use {', '.join(_OPERATORS)}")
    conditions = [
        _operator(path, operator, value, f"{place}[{operator!r}]")
        for operator, value in operators.items()
        if operator not in _RANGES
    ]
    if bounds := {operator: operators[operator] for operator in _RANGES if operator in operators}:
        conditions.append(_between(path, bounds, place))
    return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))


def _operator(path: Path, operator: str, value: object, place: str) -> Condition:
    if operator == "$exists":
        if not isinstance(value, bool):
            raise InvalidInputError(f"{place} must be True or False, got {value!r:.80}")
        return Not(Missing(path)) if value else Missing(path)
    condition = _equals(path, value, place) if operator in ("$eq", "$ne") else _one_of(path, value, place)
    return Not(condition) if operator in ("$ne", "$nin") else condition


def _equals(path: Path, value: object, place: str) -> Condition:
    if isinstance(value, str):
        return Matches(path, (_word(value, place),))
    if isinstance(value, bool):
        return Matches(path, (value,))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidInputError(f"{place} compares with {value!r:.80}; whole numbers have 64 bits at most")
    if isinstance(value, int) and abs(value) >= _LARGEST_EXACT:
        return Matches(path, (value,))
    if isinstance(value, (int, float)) and math.isfinite(value):
        return Between(path, gte=float(value), lte=float(value))  # so that 2 and 2.0 are equal
    advice = {"NoneType": "; ask {'$exists': False}", "list": "; ask {'$in': [...]}"}.get(type(value).__name__, "")
    raise InvalidInputError(f"{place} compares with {value!r:.80}; a value is a str, a number or a bool{advice}")


def _one_of(path: Path, values: object, place: str) -> Condition:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise InvalidInputError(f"{place} must be a list of values, got {values!r:.80}")
    words = tuple(_word(value, place) for value in values if isinstance(value, str))
    others = [_equals(path, value, place) for value in values if not isinstance(value, str)]
    conditions = ([Matches(path, words)] if words else []) + others
    return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))


def _word(value: str, place: str) -> str:
    """The text itself, of a member of an Enum too."""
    check_text(value, place)
    return str.__str__(value)


def _between(path: Path, bounds: Mapping[str, object], place: str) -> Condition:
    checked = {operator: _bound(value, f"{place}[{operator!r}]") for operator, value in bounds.items()}
    if len({type(bound) for bound in checked.values()}) > 1:
        raise InvalidInputError(f"{place} has a number and a date as bounds; use two of one kind")
    named = {operator[1:]: bound for operator, bound in checked.items()}
    if {"gt", "gte"} <= named.keys() or {"lt", "lte"} <= named.keys():  # of which engines heed one
        return AllOf(tuple(Between(path, **{name: bound}) for name, bound in named.items()))
    return Between(path, **named)


def _bound(value: object, place: str) -> float | datetime:
    if isinstance(value, str):
        try:
            date = datetime.fromisoformat(value)
            return date.astimezone(UTC) if date.tzinfo else date
        except (ValueError, OverflowError) as error:
            raise InvalidInputError(
                f"{place} is {value!r:.80}; a bound is a number, or an ISO date: 2024-05-31 or 2024-05-31T10:00:00"
            ) from error
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise InvalidInputError(f"{place} is {value!r:.80}; a bound is a number or an ISO date")
