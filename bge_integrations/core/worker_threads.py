"""How many threads the worker of the CPU computes on: fewer while other work keeps them waiting for a core.

The threads that share a layer wait for each other. If a second process also computes on every core, one of them is
always waiting for its turn on a core, and the others wait with it: on two cores, two such processes take eight times as
long as one alone, and with a thread each less than twice as long.
"""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path

from threadpoolctl import ThreadpoolController

_logger = logging.getLogger(__name__)
#: Seconds of computing after which the time spent waiting is judged.
_WINDOW = 0.1
#: More than this share of the time spent waiting for a core is too much. Measured on two cores over windows of 0.1 s:
#: below 0.1 in 99 % of them alone, 0.4 in the median beside another process.
_TOO_LONG = 0.2
#: Seconds until more threads are tried again, at first and at most; twice as long after each try that fails.
_PAUSE, _LONGEST_PAUSE = 1.0, 64.0
_CGROUP = Path("/sys/fs/cgroup")


class ThreadCount:
    """The rule: half as many threads when they wait too long, and a try with twice as many after a pause.

    Attributes:
        most: Maximum number of threads.
        count: Number of threads to compute on.
    """

    def __init__(self, most: int) -> None:
        self.most = self.count = most
        self._pause = _PAUSE
        self._raised_at = -math.inf
        self._retry_at = -math.inf

    def judge(self, now: float, waiting: float) -> None:
        """Update `count`, given the time in seconds and the share of the last window spent waiting, from 0 to 1."""
        if waiting > _TOO_LONG:
            if self.count > 1:
                failed = now - self._raised_at < self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE) if failed else _PAUSE
                self.count = self.count // 2
            self._retry_at = now + self._pause
        elif self.count < self.most and now >= self._retry_at:
            self.count = min(2 * self.count, self.most)
            self._raised_at = now


class WorkerThreads:
    """The OpenMP threads of the thread that creates this, which must have computed something with OpenMP before.

    The number is a setting of that thread: the application's other threads keep theirs. Only Linux reports how long
    a thread waits for a core; elsewhere the number stays as it is.
    """

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="openmp").lib_controllers
        set_by_user = max((library.num_threads for library in self._libraries), default=1)
        self._threads = ThreadCount(min(set_by_user, cpu_limit() or set_by_user))
        self._use(self._threads.count)
        self._scheduling: int | None = None
        if self._threads.most > 1:
            with suppress(OSError):
                self._scheduling = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._computed = self._waited = 0.0
        self._since, self._waited_before = self._read()

    @property
    def count(self) -> int:
        """Number of threads in use."""
        return self._threads.count

    def begin(self) -> None:
        """Start counting; call it before each batch."""
        self._since, self._waited_before = self._read()

    def check(self) -> None:
        """Adapt the number of threads; call it between layers and after a batch."""
        if self._scheduling is None:
            return
        now, waited = self._read()
        self._computed += now - self._since
        self._waited += waited - self._waited_before
        self._since, self._waited_before = now, waited
        if self._computed < _WINDOW:
            return
        before = self._threads.count
        self._threads.judge(now, self._waited / self._computed)
        self._computed = self._waited = 0.0
        if self._threads.count != before:
            self._use(self._threads.count)
            _logger.info("computing on %d of %d threads", self._threads.count, self._threads.most)

    def close(self) -> None:
        """Free what the operating system holds."""
        if self._scheduling is not None:
            os.close(self._scheduling)
            self._scheduling = None

    def _read(self) -> tuple[float, float]:
        """Return the time, and the seconds that this thread has waited for a core."""
        if self._scheduling is None:
            return time.perf_counter(), 0.0
        return time.perf_counter(), int(os.pread(self._scheduling, 100, 0).split()[1]) / 1e9

    def _use(self, count: int) -> None:
        for library in self._libraries:
            library.set_num_threads(count)


def cpu_limit(cgroup: Path = _CGROUP) -> int | None:
    """Return how many cores the container may use, at least 1; None without a limit.

    Args:
        cgroup: Where the control group of the process is mounted, version 2 or 1.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroup / "cpu" / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None  # "max", or -1 in version 1
    return max(1, int(quota) // int(period))
