"""How many positions a causal language model can tell apart, according to its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bge_integrations.errors import CheckpointError

#: Kinds of RoPE scaling whose factor multiplies max_position_embeddings. With the others it is included already.
_MULTIPLY = ("linear", "dynamic", "yarn")


def rope_positions(config: Mapping[str, Any]) -> int:
    """Return the number of positions, RoPE scaling included.

    Raises:
        CheckpointError: config.json does not say it.
    """
    positions: Any = config.get("max_position_embeddings")
    scaling: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    try:
        kind = scaling.get("rope_type") or scaling.get("type")
        if kind not in _MULTIPLY:
            return int(positions)
        original = scaling.get("original_max_position_embeddings") or positions
        return max(int(positions), int(original * float(scaling.get("factor", 1))))
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"config.json has no usable max_position_embeddings or RoPE scaling ({error})") from error
