"""Exit statuses of commands that end by Ctrl-C or because the output pipe was closed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: The exit statuses that shells report after Ctrl-C and after a closed pipe.
INTERRUPTED = 130
CLOSED_PIPE = 141


@dataclass
class Ended:
    """How the block ended: `status` is 0, 130 after Ctrl-C, or 141 if the output pipe was closed."""

    status: int = 0


@contextmanager
def exit_status(interrupted: str) -> Iterator[Ended]:
    """Turn Ctrl-C or a closed pipe in the block into an exit status, without a traceback; other errors propagate.

    Args:
        interrupted: Printed to standard error after Ctrl-C, followed by the message of the `KeyboardInterrupt` if it
            has one. Nothing is printed if the pipe was closed.
    """
    ended = Ended()
    try:
        try:
            yield ended
        finally:
            sys.stdout.flush()  # inside the try, so that a closed pipe is handled below
    except KeyboardInterrupt as interrupt:
        print("; ".join([interrupted, *map(str, interrupt.args)]), file=sys.stderr)
        ended.status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python's own flush at exit
        ended.status = CLOSED_PIPE
