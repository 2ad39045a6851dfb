"""One forward pass for the dense and the sparse vectors of a hybrid store.

A hybrid store asks one adapter for the dense vectors of its texts and another adapter for the sparse vectors of the
same texts. If both adapters use bge-m3 with equal settings, the first call computes both in one pass, and the second
call takes its vectors from the cache here. The cache belongs to the shared model, so both adapters have access to it.

Two adapters that merely use the same model should not pay for this. So a call computes the other representation only
while the other adapter uses it: after `_PATIENCE` calls in a row with unused vectors, calls compute only their own
representation, until the other adapter asks for one of the texts that were just computed without its representation.
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
#: Approximate memory overhead of a cached vector in bytes.
_OVERHEAD = 256


@dataclass(frozen=True)
class Plan:
    """What one call takes from the cache, and what it has to compute.

    Attributes:
        texts: The texts of the call.
        cached: {text: vector}, computed by an earlier call of the other adapter.
        missing: The texts to compute.
        parts: The representations to compute for these texts.
    """

    texts: list[str]
    cached: Mapping[str, Any]
    missing: list[str]
    parts: frozenset[Part]

    def in_order(self, computed: Iterable[Any]) -> list[Any]:
        """Return the cached and the computed vectors in the order of the call."""
        rows = {**self.cached, **dict(zip(self.missing, computed, strict=True))}
        return [rows[text] for text in self.texts]


class SharedPass:
    """Caches the vectors that calls of one adapter compute for the other. Thread-safe.

    Attributes:
        is_shared: Whether adapters of both kinds exist. If not, an adapter does not need this object.
    """

    def __init__(self) -> None:
        self.is_shared = False
        self._adapters: dict[Part, list[weakref.ref[Any]]] = {"dense": [], "sparse": []}
        self.reset()

    def reset(self) -> None:
        """Replace the caches by empty ones with new locks; a forked child can't use its parent's locks."""
        self._cached: dict[Part, _VectorCache] = {"dense": _VectorCache(), "sparse": _VectorCache()}
        self._unclaimed: dict[Part, int] = {"dense": 0, "sparse": 0}
        self._computed_alone: dict[Part, deque[bytes]] = {
            "dense": deque(maxlen=_PATIENCE),
            "sparse": deque(maxlen=_PATIENCE),
        }

    def join(self, adapter: object, part: Part) -> None:
        """Register an adapter for this representation, for as long as the adapter exists."""
        self._adapters[part].append(weakref.ref(adapter, self._count_adapters))
        self._count_adapters()

    def plan(self, part: Part, kind: str, texts: list[str]) -> Plan:
        """Decide what a call for this representation has to compute. A cached vector is removed when it is returned."""
        if not self.is_shared:
            return Plan(texts, {}, texts, frozenset({part}))
        keys = {text: _key(kind, text) for text in texts}
        cached = self._cached[part].take(keys)
        missing = [text for text in texts if text not in cached]
        other = _OTHER[part]
        if cached or any(keys[text] in self._computed_alone[other] for text in missing):
            self._unclaimed[part] = 0
        both = self._unclaimed[other] < _PATIENCE
        return Plan(texts, cached, missing, frozenset({part, other}) if both else frozenset({part}))

    def keep_for_other(self, part: Part, kind: str, plan: Plan, computed: Embeddings) -> None:
        """Cache the vectors that a call computed for the other adapter."""
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
        self._cached[other].keep(dict(zip(keys, map(_copy, rows), strict=True)))

    def _count_adapters(self, _: object = None) -> None:
        # the garbage collector calls this too, so it must not take a lock
        alive = {part: [ref for ref in refs if ref() is not None] for part, refs in self._adapters.items()}
        self._adapters = alive
        self.is_shared = all(alive.values())
        if not self.is_shared:
            self.reset()


class _VectorCache:
    """Vectors of one representation, cached for their adapter; the oldest are dropped if they take too much memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vectors: dict[bytes, Any] = {}
        self._bytes = 0

    def take(self, keys: Mapping[str, bytes]) -> dict[str, Any]:
        """Remove and return the vectors with these keys."""
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
    """Return a digest, so that the cache does not keep long texts in memory."""
    return hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=16).digest()
