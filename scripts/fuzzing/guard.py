"""What a reader of untrusted files must not do: leave its folder, run code, or use more memory or time than allowed."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Bytes of address space that reading one input may take, and its seconds of processor time.
MEMORY = 2 << 30
SECONDS = 10
#: Audit events that mean that code or a program runs, or that something is sent.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pickle.find_class"),
    *("socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open", "code.__new__"),
)
#: Audit events that change the paths in their arguments.
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Folders whose files every program reads.
_SYSTEM = tuple(str(Path(path).resolve()) for path in ("/usr", "/lib", "/proc", "/sys", "/dev", "/etc/ssl"))


class Guard:
    """Watches this process by audit events, which can't be removed again, and limits its memory and time.

    Args:
        folder: The folder that may be changed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        installed = (sys.prefix, sys.base_prefix, os.fspath(Path(__file__).parents[2]), *sys.path)
        self._readable = (self._folder, *_SYSTEM, *(os.path.realpath(path) for path in installed if path))
        self._seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Yield a list of what the block does although it must not. Its memory and processor time are limited.

        Too much time ends the process with SIGPROF. Too much memory is a MemoryError, or ends it too.
        """
        self._seen = []
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        self._watching = True
        try:
            yield self._seen
        finally:
            self._watching = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._watching:
            return
        if event in _FORBIDDEN:
            self._seen.append(f"{event}{arguments!r}"[:300])
        elif event == "open":
            path, _, flags = arguments
            writes = bool(isinstance(flags, int) and flags & _WRITES)
            self._check(event, path, (self._folder,) if writes else self._readable)
        elif event in _CHANGES:
            # a path can be relative to a folder that is given last, as an open file
            opened = arguments[-1]
            folder = os.readlink(f"/proc/self/fd/{opened}") if isinstance(opened, int) and opened >= 0 else ""
            for path in arguments:
                if isinstance(path, str | bytes):
                    self._check(event, os.path.join(folder, os.fsdecode(path)), (self._folder,))

    def _check(self, event: str, path: object, allowed: tuple[str, ...]) -> None:
        if not isinstance(path, str | bytes):
            return  # a file descriptor
        real = os.path.realpath(os.fsdecode(path))
        if real != "/dev/null" and not any(real == each or real.startswith(each + os.sep) for each in allowed):
            self._seen.append(f"{event} {real}")


def _address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
