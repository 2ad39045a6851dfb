"""One pass for the dense and the sparse vectors of a hybrid store.

A hybrid store asks one adapter for the dense vectors of its texts and another adapter for the sparse vectors of the
same texts. If both adapters use bge-m3 with equal settings, the first call computes both in one pass, and the second
call takes what the first left here. The pass lives with the shared model, where both adapters find it.

An adapter that merely exists beside an unrelated adapter of the other kind should not pay for it. So a call computes
the other representation only while somebody takes it: after `_PATIENCE` calls in a row whose vectors nobody took, calls
compute their own representation alone, until the other adapter asks for a text that was just computed that way.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bge_integrations.core import runtime
from bge_integrations.outputs import Embeddings, SparseVector

Part = Literal["dense", "sparse"]
_OTHER: dict[Part, Part] = {"dense": "sparse", "sparse": "dense"}
#: Calls in a row whose vectors for the other adapter may go unused before calls stop computing them.
_PATIENCE = 64
#: Approximate bytes that a waiting vector takes besides its numbers.
_OVERHEAD = 256


@dataclass(frozen=True)
class Plan:
    """What one call has to do.

    Attributes:
        texts: The texts of the call.
        waiting: {text: vector}, computed by an earlier call of the other adapter.
        missing: The texts to compute.
        parts: The representations to compute of these.
    """

    texts: list[str]
    waiting: Mapping[str, Any]
    missing: list[str]
    parts: frozenset[Part]

    def in_order(self, computed: Iterable[Any]) -> list[Any]:
        """Return what waited and what was computed in the order of the call."""
        rows = {**self.waiting, **dict(zip(self.missing, computed, strict=True))}
        return [rows[text] for text in self.texts]


class SharedPass:
    """Keeps what the calls of one adapter computed for the other. Safe for any number of threads.

    Attributes:
        is_shared: Whether adapters of both kinds exist. If not, an adapter has no need of anything else here.
    """

    def __init__(self) -> None:
        self.is_shared = False
        self._adapters: dict[Part, list[weakref.ref[Any]]] = {"dense": [], "sparse": []}
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything that waits; a forked child can't use the locks of its parent's threads."""
        self._waiting: dict[Part, _Waiting] = {"dense": _Waiting(), "sparse": _Waiting()}
        self._unclaimed: dict[Part, int] = {"dense": 0, "sparse": 0}
        self._computed_alone: dict[Part, deque[bytes]] = {
            "dense": deque(maxlen=_PATIENCE),
            "sparse": deque(maxlen=_PATIENCE),
        }

    def join(self, adapter: object, part: Part) -> None:
        """Note that an adapter for this representation exists, for as long as it does."""
        self._adapters[part].append(weakref.ref(adapter, self._count_adapters))
        self._count_adapters()

    def plan(self, part: Part, kind: str, texts: list[str]) -> Plan:
        """Decide what a call for this representation has to compute. Each waiting vector is handed out once."""
        if not self.is_shared:
            return Plan(texts, {}, texts, frozenset({part}))
        keys = {text: _key(kind, text) for text in texts}
        waiting = self._waiting[part].take(keys)
        missing = [text for text in texts if text not in waiting]
        other = _OTHER[part]
        if waiting or any(keys[text] in self._computed_alone[other] for text in missing):
            self._unclaimed[part] = 0
        both = self._unclaimed[other] < _PATIENCE
        return Plan(texts, waiting, missing, frozenset({part, other}) if both else frozenset({part}))

    def keep_for_other(self, part: Part, kind: str, plan: Plan, computed: Embeddings) -> None:
        """Keep what a call computed for the adapter of the other representation."""
        if not plan.missing or not self.is_shared:
            return
        other = _OTHER[part]
        if len(plan.parts) == 1:
            self._computed_alone[part].append(_key(kind, plan.missing[0]))
            return
        rows = computed.sparse if other == "sparse" else computed.dense
        assert rows is not None
        self._unclaimed[other] += 1
        keys = (_key(kind, text) for text in plan.missing)
        self._waiting[other].keep(dict(zip(keys, map(_copy, rows), strict=True)))

    def _count_adapters(self, _: object = None) -> None:
        # called by the garbage collector too, so nothing here takes a lock
        alive = {part: [ref for ref in refs if ref() is not None] for part, refs in self._adapters.items()}
        self._adapters = alive
        self.is_shared = all(alive.values())
        if not self.is_shared:
            self.start_afresh()


class _Waiting:
    """Vectors of one representation that wait for their adapter; the oldest go if they take too much memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vectors: dict[bytes, Any] = {}
        self._bytes = 0

    def take(self, keys: Mapping[str, bytes]) -> dict[str, Any]:
        """Remove and return the vectors that wait under these keys."""
        if not self._vectors:
            return {}
        with self._lock:
            taken = {text: self._vectors.pop(key) for text, key in keys.items() if key in self._vectors}
            self._bytes -= sum(map(_size, taken.values()))
        return taken

    def keep(self, vectors: Mapping[bytes, Any]) -> None:
        limit = runtime.policy.shared_pass_bytes
        with self._lock:
            for key, vector in vectors.items():
                if key in self._vectors:
                    self._bytes -= _size(self._vectors.pop(key))
                self._vectors[key] = vector
                self._bytes += _size(vector)
            while self._bytes > limit:
                self._bytes -= _size(self._vectors.pop(next(iter(self._vectors))))


def _copy(row: Any) -> Any:
    """Return a copy, because a view of one row keeps the whole array in memory."""
    return SparseVector(row.indices.copy(), row.values.copy()) if isinstance(row, SparseVector) else np.copy(row)


def _size(row: Any) -> int:
    numbers = row.indices.nbytes + row.values.nbytes if isinstance(row, SparseVector) else row.nbytes
    return int(numbers) + _OVERHEAD


def _key(kind: str, text: str) -> bytes:
    """Return a digest, so that long texts don't stay in memory with their vectors."""
    return hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=16).digest()
