"""How much memory is free, and the refusal of models that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from bge_integrations.errors import OutOfMemoryError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a new model may take on `device`; None where the system does not say (not Linux, not CUDA)."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    limits = [free for free in (_free_in_system(), _free_in_container()) if free is not None]
    return min(limits, default=None)


def check_room(name: str, needed: int, device: torch.device, smaller: Mapping[str, int]) -> None:
    """Refuse, before it is read, a model that takes more bytes than are free.

    Args:
        smaller: {dtype: bytes} that it may take instead.

    Raises:
        OutOfMemoryError: It says how much is needed and how much is there, and which dtypes fit.
    """
    free = free_memory(device)
    if free is None or needed <= free:
        return
    fitting = [f"dtype={dtype!r} takes {gigabytes(size)}" for dtype, size in smaller.items() if size <= free]
    raise OutOfMemoryError(
        f"{name} needs about {gigabytes(needed)} of memory on {device}, and {gigabytes(free)} are free; "
        + (", ".join(fitting) or "use a smaller model, fewer cutoff_layers where it has them, or another machine")
    )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _free_in_system() -> int | None:
    for line in _lines(_MEMINFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_in_container() -> int | None:
    """What the process's control group (version 2) has left of its limit; cached files in it can be dropped."""
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
