"""Translation of LlamaIndex's metadata filters into the filter language of `M3Index`."""

from __future__ import annotations

from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bge_integrations.errors import InvalidInputError

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$eq",  # a list matches if one of its elements does
    FilterOperator.ANY: "$in",
}


def to_filter(filters: MetadataFilters | dict[str, Any]) -> dict[str, Any] | None:
    """Return the filter for `M3Index`, or None if there are no conditions. An `M3Index` filter is returned unchanged.

    Raises:
        InvalidInputError: An operator is not supported.
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


def _condition(part: MetadataFilter) -> dict[str, Any] | None:
    key = f'"{part.key}"'  # LlamaIndex's keys are flat: a dot is part of the name
    if part.operator is FilterOperator.IS_EMPTY:
        return {key: {"$exists": False}}
    if part.operator is FilterOperator.ALL:
        if not isinstance(part.value, list):
            raise InvalidInputError(f"the filter on {part.key!r} with operator 'all' needs a list, got {part.value!r}")
        return {"$and": [{key: value} for value in part.value]} if part.value else None
    if part.operator not in _OPERATORS:
        known = ", ".join(
            f"'{operator.value}'" for operator in (*_OPERATORS, FilterOperator.ALL, FilterOperator.IS_EMPTY)
        )
        raise InvalidInputError(
            f"the filter on {part.key!r} has the operator '{part.operator.value}', which BGEM3Index does not support",
            advice=f"use {known}",
        )
    return {key: {_OPERATORS[part.operator]: part.value}}
