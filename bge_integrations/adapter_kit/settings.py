"""What the adapters of all frameworks check of their settings, before the core sees them."""

from __future__ import annotations

from typing import Any

from bge_integrations.errors import InvalidInputError


def one_query_instruction(settings: Any) -> Any:
    """The settings of an embedding adapter, with `task_instruction`, another name, as `query_instruction`.

    Raises:
        InvalidInputError: Both are given, and differ.
    """
    if not isinstance(settings, dict) or "task_instruction" not in settings:
        return settings
    kept = {name: value for name, value in settings.items() if name != "task_instruction"}
    given = [text for text in (settings["task_instruction"], kept.get("query_instruction")) if text is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise InvalidInputError("query_instruction is given twice, also as task_instruction; pass one of them")
    return {**kept, "query_instruction": given[0] if given else None}


def one_cutoff(cutoff_layers: Any) -> Any:
    """`cutoff_layers` of a reranking adapter: one number, which may stand in a list.

    Raises:
        InvalidInputError: There are several, or none in the list.
    """
    if not isinstance(cutoff_layers, (list, tuple)):
        return cutoff_layers
    if len(cutoff_layers) != 1:
        raise InvalidInputError(
            f"cutoff_layers={cutoff_layers!r} must be one number here, since one list of scores gives the order; "
            "pass one of them, and see evaluation.compare_cutoffs for which"
        )
    return cutoff_layers[0]
