"""Optional libraries: imported when they are first needed, with an error that says how to install them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def how_to_install(extra: str) -> str:
    """Return how to install an extra, from a clone and from a package index."""
    return f"pip install -e '.[{extra}]' in a clone of the project; from a package index 'bge-integrations[{extra}]'"


def import_library(module: str, extra: str, user: str) -> Any:
    """Import and return a module of an optional library.

    Args:
        module: Its name.
        extra: The extra that installs it.
        user: What needs it, for the message: "reading files".

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs {module}: {how_to_install(extra)}", name=module) from error
