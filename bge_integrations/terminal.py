"""The encoding of what commands print."""

from __future__ import annotations

import contextlib
import io
import sys


def prepare_output() -> None:
    """Make standard output and standard error of this process print any text, whatever the locale.

    Files and pipes get UTF-8; half of a surrogate pair, which UTF-8 can't encode, is escaped as in JSON. A terminal
    keeps its encoding, and shows "?" for a character that is not in it.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue  # closed by the caller, or replaced, as in a notebook
        with contextlib.suppress(ValueError):  # the stream was closed
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
