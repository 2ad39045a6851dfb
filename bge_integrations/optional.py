"""Optional libraries: imported on first use, with an error that says how to install them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def how_to_install(extra: str) -> str:
    """Return how to install an extra, from a clone and from a package index."""
    return f"pip install -e '.[{extra}]' in a clone of the project; from a package index 'bge-integrations[{extra}]'"


def import_library(module: str, extra: str, user: str) -> Any:
    """Import and return a module of an optional library.

    Args:
        module: The module's name.
        extra: The extra that installs it.
        user: What needs it, for the message, such as "reading files".

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs {module}: {how_to_install(extra)}", name=module) from error


@contextmanager
def needed_by(user: str, requirement: str) -> Iterator[None]:
    """Add install instructions to the ImportError of a missing framework; wraps the imports of an adapter's module.

    Args:
        user: The module or class that can't work without it.
        requirement: What pip installs.

    Raises:
        ImportError: The block could not import the framework; the message says how to install it.
    """
    try:
        yield
    except ImportError as error:
        name = error.name or requirement
        raise ImportError(
            f"{user} needs {name}, which is not installed: pip install '{requirement}'", name=name
        ) from error
