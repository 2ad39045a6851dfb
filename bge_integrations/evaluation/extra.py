"""Import the libraries of the extra "eval" when they are first needed."""

from __future__ import annotations

from typing import Any

from bge_integrations.optional import import_library


def import_extra(module: str) -> Any:
    """Import and return a module.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    return import_library(module, "eval", "bge_integrations.evaluation")
