"""Warnings about what a caller of this package should know."""

from __future__ import annotations

import sys
import warnings


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning for the line that called this package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "bge_integrations":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
