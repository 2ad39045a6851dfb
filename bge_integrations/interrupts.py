"""Exit statuses of commands that are stopped from outside: by Ctrl-C, or because the reader of the output has gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: The statuses that shells report for programs ended by Ctrl-C and by a closed pipe.
INTERRUPTED = 130
CLOSED_PIPE = 141


@dataclass
class Ended:
    """How the block ended: `status` is 0, 130 after Ctrl-C, or 141 if the reader of the output has gone."""

    status: int = 0


@contextmanager
def exit_status(interrupted: str) -> Iterator[Ended]:
    """End the block with a status and without a traceback after Ctrl-C or on a closed pipe; other errors are raised.

    Args:
        interrupted: Printed to standard error after Ctrl-C, followed by the message of the `KeyboardInterrupt` if it
            has one. On a closed pipe nothing is printed.
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
