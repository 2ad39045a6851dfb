"""Which process holds the lock of an index's folder."""

from __future__ import annotations

from pathlib import Path

_LOCKS = Path("/proc/locks")


def holder_of(lock_file: Path) -> str:
    """Return "another process", with its number and program if the system tells them (Linux)."""
    try:
        inode = str(lock_file.stat().st_ino)
        locks = [line.split() for line in _LOCKS.read_text().splitlines()]
        # "1: FLOCK ADVISORY WRITE <process> <device>:<inode> 0 EOF"
        process = next(lock[4] for lock in locks if lock[1] == "FLOCK" and lock[5].rpartition(":")[2] == inode)
        program = Path(f"/proc/{process}/comm").read_text().strip()
    except (OSError, ValueError, IndexError, StopIteration):
        return "another process"
    return f"another process ({process}, {program})"
