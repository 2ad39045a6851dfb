"""The exit status of a command that is stopped from outside: by Ctrl-C, or because nobody reads its output any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: What the shell shows for a program ended by Ctrl-C, and for one ended by a closed pipe.
INTERRUPTED = 130
CLOSED_PIPE = 141


@dataclass
class Ended:
    """How the block ended: `status` is 0, 130 after Ctrl-C, or 141 where the reader of the output has gone."""

    status: int = 0


@contextmanager
def exit_status(interrupted: str) -> Iterator[Ended]:
    """Ctrl-C and a closed pipe end the block with a status and without a traceback; other errors are raised.

    Args:
        interrupted: The line for standard error after Ctrl-C. The text of a `KeyboardInterrupt`, where the block raises
            one that has a text, is added to it. A closed pipe ends silently.
    """
    ended = Ended()
    try:
        try:
            yield ended
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be told from a failure
    except KeyboardInterrupt as interrupt:
        print("; ".join([interrupted, *map(str, interrupt.args)]), file=sys.stderr)
        ended.status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python's own flush at the end
        ended.status = CLOSED_PIPE
