"""Ctrl-C during a training: the current step is finished and saved, then the training ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether the user or the system asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:  # the user doesn't want to wait for the step
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Yield an `Interruption` that catches SIGINT and SIGTERM; outside the main thread it catches nothing."""
    caught = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        signal.signal(number, caught._request)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
