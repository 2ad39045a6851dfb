"""The libraries of the extra "eval", imported when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_extra(module: str) -> Any:
    """The module.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"bge_integrations.evaluation needs {module}: pip install 'bge-integrations[eval]'", name=module
        ) from error
