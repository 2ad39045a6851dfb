"""Out-of-memory handling: reject models that do not fit before loading them, and translate torch's errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import torch

from bge_integrations.errors import OutOfMemoryError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes are free for a model on `device`; None if that is unknown (neither Linux nor CUDA)."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    limits = [free for free in (_free_in_system(), _free_in_container()) if free is not None]
    return min(limits, default=None)


def check_room(name: str, needed: int, device: torch.device, smaller: Mapping[str, int]) -> None:
    """Reject a model that needs more bytes than are free.

    Args:
        smaller: {dtype: bytes needed} for smaller dtypes.

    Raises:
        OutOfMemoryError: The message names the bytes needed, the bytes free and the dtypes that fit.
    """
    free = free_memory(device)
    if free is None or needed <= free:
        return
    fitting = [f"dtype={dtype!r} takes {gigabytes(size)}" for dtype, size in smaller.items() if size <= free]
    raise OutOfMemoryError(
        f"{name} needs about {gigabytes(needed)} of memory on {device}, but only {gigabytes(free)} are free; "
        + (", ".join(fitting) or "use a smaller model, fewer cutoff_layers if it has them, or another machine")
    )


def gigabytes(size: int) -> str:
    return f"{Decimal(size) / 10**9:.1f} GB"  # a damaged config.json can lead to more than a float holds


def _free_in_system() -> int | None:
    for line in _lines(_MEMINFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_in_container() -> int | None:
    """Return what is left of the process's cgroup limit (version 2), counting its file cache as free."""
    limit, used = _lines(_CGROUP / "memory.max"), _lines(_CGROUP / "memory.current")
    if not limit or not used or not limit[0].isdigit():
        return None
    cached = [int(line.split()[1]) for line in _lines(_CGROUP / "memory.stat") if line.startswith("inactive_file ")]
    return int(limit[0]) - int(used[0]) + sum(cached)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory errors of any device into `OutOfMemoryError`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemoryError(str(error)) from error
        raise
