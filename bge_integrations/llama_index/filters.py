"""Translation of LlamaIndex's metadata filters into the filter language of `M3Index`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bge_integrations.errors import InvalidInputError

#: LlamaIndex's metadata key for the id of a node's document.
REF_DOC = "ref_doc_id"
#: Operators that M3Index has, too. On a list, they hold if one of its elements meets them.
_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.TEXT_MATCH: "$contains",
    FilterOperator.TEXT_MATCH_INSENSITIVE: "$icontains",
}


def to_filter(filters: MetadataFilters | dict[str, Any]) -> dict[str, Any] | None:
    """Return the filter for `M3Index`, or None if there are no conditions. An `M3Index` filter is returned unchanged.

    Raises:
        InvalidInputError: A value has the wrong type for its operator.
    """
    if isinstance(filters, dict):
        return filters
    parts = [to_filter(part) if isinstance(part, MetadataFilters) else _condition(part) for part in filters.filters]
    conditions = [part for part in parts if part is not None]
    if not conditions:
        return None
    match filters.condition:
        case FilterCondition.OR:
            return {"$or": conditions}
        case FilterCondition.NOT:  # none may match, as in LlamaIndex's own stores
            return {"$not": {"$or": conditions}}
        case _:
            return {"$and": conditions}


def search_filter(
    filters: MetadataFilters | dict[str, Any] | None, doc_ids: Sequence[str] | None
) -> dict[str, Any] | None:
    """Return the filter for `M3Index` of a search among the nodes of these documents; None stands for all of them."""
    documents = None if doc_ids is None else {REF_DOC: {"$in": list(doc_ids)}}
    return _all_of([None if filters is None else to_filter(filters), documents])


def _condition(part: MetadataFilter) -> dict[str, Any]:
    key = f'"{part.key}"'  # LlamaIndex's keys are flat: a dot is part of the name
    match part.operator:
        case FilterOperator.IS_EMPTY:
            return {"$or": [{key: {"$exists": False}}, {key: ""}]}
        case FilterOperator.CONTAINS:
            return _contains(key, part.value)
        case FilterOperator.ANY:
            parts = [_contains(key, value) for value in _listed(part)]
            return {"$or": parts} if parts else {key: {"$in": []}}
        case FilterOperator.ALL:
            return {"$and": [{key: {"$exists": True}}, *(_contains(key, value) for value in _listed(part))]}
    return {key: {_OPERATORS[part.operator]: part.value}}


def _contains(key: str, value: Any) -> dict[str, Any]:
    """Return the condition that a list has this element, or that a str contains this text."""
    if not isinstance(value, str):
        return {key: value}
    return {"$or": [{key: value}, {key: {"$contains": value}}]}


def _listed(part: MetadataFilter) -> list[Any]:
    if not isinstance(part.value, list):
        raise InvalidInputError(
            f"the filter on {part.key!r} with operator '{part.operator.value}' needs a list, got {part.value!r}"
        )
    return part.value


def _all_of(conditions: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    parts = [condition for condition in conditions if condition is not None]
    return {"$and": parts} if parts else None
