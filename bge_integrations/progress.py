"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
import sys
from typing import Any


def progress_bar(total: int | None, unit: str, shown: bool = True) -> Any:
    """Return a tqdm bar, which is also a context manager; with `shown=False` it does nothing."""
    from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit, desc="bge", file=_Unbreakable(), disable=not shown)


class _Unbreakable:
    """Standard error for a progress bar: a closed pipe must not stop the work or leave tqdm's lock held."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
