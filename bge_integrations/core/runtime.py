"""The policy of the inference core in one place, and counters that a server can export.

`configure` changes the policy of this process, `statistics` returns the counters. Nothing here depends on models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_choice, check_whole_number

WhenFull = Literal["wait", "refuse"]


@dataclass(frozen=True)
class Policy:
    """How calls are split, queued and batched. Change it with `configure`.

    Attributes:
        cpu_batch_tokens, cuda_batch_tokens: Maximum tokens in a batch, by type of device. A longer text gets a batch
            of its own.
        urgent_tokens: Calls of at most this many tokens overtake longer ones.
        chunk_texts: Number of texts in a chunk. A call tokenises one chunk while the device computes the one before.
        inline_texts, inline_characters: An async call of at most this size is tokenised on the event loop, which blocks
            it for about a millisecond.
        max_queued_tokens: Maximum tokens in a device's queues: one queue is for urgent calls, one for longer ones.
        when_full: What happens to a new call if the queue is full: "wait", or "refuse" with `OverloadedError`.
        shared_pass_bytes: Maximum bytes of vectors cached for the other adapter of a hybrid store, per representation.
        exit_seconds: Seconds to wait at interpreter exit for a model that is still loading.
    """

    cpu_batch_tokens: int = 1024
    cuda_batch_tokens: int = 65536
    urgent_tokens: int = 2048
    chunk_texts: int = 2048
    inline_texts: int = 64
    inline_characters: int = 4096
    max_queued_tokens: int = 4 << 20
    when_full: WhenFull = "wait"
    shared_pass_bytes: int = 64 << 20
    exit_seconds: int = 5

    def batch_tokens(self, device: str) -> int:
        """Return the maximum tokens of a batch on this device."""
        return self.cuda_batch_tokens if device.startswith("cuda") else self.cpu_batch_tokens


@dataclass
class DeviceStatistics:
    """Counters of one device since the process started.

    Attributes:
        requests: Calls that were queued.
        sequences, tokens: Texts or pairs that were computed, and their tokens.
        batches: Batches that were computed.
        queued_sequences, queued_tokens: Texts or pairs in the queue now, and their tokens.
        threads: Threads that the CPU computes on now, fewer while other processes keep its cores busy; 0 on a GPU and
            before the first batch.
        waiting_seconds: Time that the computed sequences spent in the queue, summed over sequences.
        computing_seconds: Time that the device spent computing.
        split_batches: Batches that did not fit in memory and were split in two.
        recomputed_sequences: Sequences with non-finite results that were recomputed in float32.
        refused_requests: Calls that were refused because the queue was full.
    """

    requests: int = 0
    sequences: int = 0
    tokens: int = 0
    batches: int = 0
    queued_sequences: int = 0
    queued_tokens: int = 0
    threads: int = 0
    waiting_seconds: float = 0.0
    computing_seconds: float = 0.0
    split_batches: int = 0
    recomputed_sequences: int = 0
    refused_requests: int = 0


class DeviceCounters:
    """The live counters of a device, which its scheduler updates.

    Attributes:
        queued: Returns how many sequences and tokens are in the queue now.
        threads: Returns how many threads compute.
    """

    def __init__(self) -> None:
        self.queued: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.threads: Callable[[], int] = lambda: 0
        self._values = DeviceStatistics()
        #: Reentrant, because a signal handler may read the counters while its thread updates them.
        self._lock = threading.RLock()

    @property
    def computing_seconds(self) -> float:
        """Seconds that the device has spent computing."""
        return self._values.computing_seconds

    def count(self, **increments: float) -> None:
        """Add to the named counters."""
        with self._lock:
            for name, increment in increments.items():
                setattr(self._values, name, getattr(self._values, name) + increment)

    def snapshot(self) -> DeviceStatistics:
        """Return the counters as they are now."""
        sequences, tokens = self.queued()
        with self._lock:
            return replace(self._values, queued_sequences=sequences, queued_tokens=tokens, threads=self.threads())


#: The current policy; change it with `configure`.
policy = Policy()
_counters: dict[str, DeviceCounters] = {}
#: Called with the number of sequences and of tokens of each batch after it was computed; they must not raise.
batch_listeners: list[Callable[[int, int], None]] = []
_configuring = threading.Lock()


def configure(**changes: Any) -> Policy:
    """Change the policy of this process, for calls that start from now on.

    Args:
        changes: Attributes of `Policy`.

    Returns:
        The previous policy, so that `configure(**vars(before))` restores it.

    Raises:
        InvalidInputError: An attribute does not exist, or its value is invalid.
    """
    global policy
    names = [attribute.name for attribute in fields(Policy)]
    for name, value in changes.items():
        if name not in names:
            raise InvalidInputError(f"the runtime has no setting {name!r}; use one of {', '.join(names)}")
        if name == "when_full":
            check_choice(value, name, get_args(WhenFull))
        else:
            check_whole_number(value, name)
    with _configuring:
        before, policy = policy, replace(policy, **changes)
    return before


def counters_of(device: str) -> DeviceCounters:
    """Return the live counters of a device, for its scheduler."""
    return _counters.setdefault(device, DeviceCounters())


def announce_batch(sequences: int, tokens: int) -> None:
    """Tell the listeners that a batch was computed."""
    for listener in batch_listeners:
        listener(sequences, tokens)


def statistics() -> dict[str, DeviceStatistics]:
    """Return the counters of each device that was used, by its name ("cpu", "cuda:0")."""
    return {device: counters.snapshot() for device, counters in list(_counters.items())}


def reset_after_fork() -> None:
    """Reset all counters: a forked child has computed nothing, and the parent's threads may hold the locks."""
    global _configuring
    _configuring = threading.Lock()
    for device in _counters:
        _counters[device] = DeviceCounters()
