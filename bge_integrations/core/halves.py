"""The dense and the sparse half of an embedder, for frameworks whose stores ask for them one after the other.

A hybrid store asks one adapter for the dense vectors of its texts, and then another adapter for the sparse vectors of
the same texts. Where both adapters hold bge-m3 with the same settings, the first question computes both in one pass,
and the second is answered with what waits here for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from weakref import WeakSet, WeakValueDictionary

import numpy as np

from bge_integrations.core.embedder import Embedder, TextKind, load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.outputs import Embeddings, SparseVector, SparseVectors
from bge_integrations.validation import check_query, check_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = Literal["dense", "sparse"]
R = TypeVar("R")
Rows = TypeVar("Rows", bound=Any)
Row = TypeVar("Row")

#: Bytes of vectors that wait at most for each half: bge-m3's dense ones of 15 000 texts, sparse ones of about 50 000.
_MOST_WAITING = 64 << 20
#: What a waiting vector takes besides its numbers, about.
_OVERHEAD = 256


def load_dense(model: str | os.PathLike[str], *, normalize: bool = True, **settings: Any) -> DenseHalf:
    """The dense half of `load_embedder(model, **settings)`; `normalize` makes its vectors unit vectors."""
    return DenseHalf(load_embedder(model, **settings), normalize)


def load_sparse(model: str | os.PathLike[str], **settings: Any) -> SparseHalf:
    """The sparse half of `load_embedder(model, **settings)`.

    Raises:
        InvalidInputError: The model has no sparse head.
    """
    embedder = load_embedder(model, **settings)
    if not embedder.has_sparse:
        embedder.close()
        raise InvalidInputError(f"{embedder.name} has no sparse head; use BAAI/bge-m3 (or 'pocket') for sparse vectors")
    return SparseHalf(embedder)


class _Half(ABC, Generic[Rows, Row]):
    """What both halves do: ask for what the pair wants, hand over what is the other's, or take what waits.

    Safe for any number of threads and tasks. Errors are those of `Embedder.encode`.

    Attributes:
        embedder: The embedder that computes.
    """

    _part: Part

    def __init__(self, embedder: Embedder, normalize: bool = True) -> None:
        self.embedder = embedder
        self._normalize = normalize
        self._pair = _pair_for(embedder.pass_settings, normalize)
        self._pair.halves[self._part].add(self)

    def passages(self, texts: Iterable[str], show_progress: bool = False) -> Rows:
        """One row per text, the passage instruction put in front of each."""
        plan = self._plan(texts, "passage")
        return self._rows(plan, self._encode(plan, show_progress))

    def queries(self, texts: Iterable[str]) -> Rows:
        """One row per query, the query instruction put in front of each."""
        plan = self._plan(texts, "query")
        return self._rows(plan, self._encode(plan))

    def query(self, text: str) -> Row:
        """The row of one query."""
        row: Row = self.queries(check_query(text))[0]
        return row

    async def apassages(self, texts: Iterable[str], show_progress: bool = False) -> Rows:
        """As `passages`, without blocking the event loop."""
        plan = await asyncio.to_thread(self._plan, texts, "passage")
        return await asyncio.to_thread(self._rows, plan, await self._aencode(plan, show_progress))

    async def aquery(self, text: str) -> Row:
        """As `query`, without blocking the event loop."""
        plan = self._plan(check_query(text), "query")
        row: Row = self._rows(plan, await self._aencode(plan))[0]
        return row

    def _plan(self, texts: Iterable[str], kind: TextKind) -> _Plan:
        return _Plan(self._pair, self._part, check_texts(texts, "texts"), kind)

    def _encode(self, plan: _Plan, show_progress: bool = False) -> Embeddings:
        return self.embedder.encode(plan.missing, **self._arguments(plan, show_progress))

    async def _aencode(self, plan: _Plan, show_progress: bool = False) -> Embeddings:
        return await self.embedder.aencode(plan.missing, **self._arguments(plan, show_progress))

    def _arguments(self, plan: _Plan, show_progress: bool) -> dict[str, Any]:
        parts: dict[str, bool] = {part: part in plan.parts for part in ("dense", "sparse")}
        return {"kind": plan.kind, "normalize": self._normalize, "show_progress": show_progress, **parts}

    def _rows(self, plan: _Plan, found: Embeddings) -> Rows:
        """This half of what was computed and what waited, in the order of the call; the other half is handed over."""
        plan.leave_the_others(found)
        return self._own(plan, found)

    @abstractmethod
    def _own(self, plan: _Plan, found: Embeddings) -> Rows:
        """This half's part of both."""


class DenseHalf(_Half["NDArray[np.float32]", "NDArray[np.float32]"]):
    """Dense vectors of queries and passages, float32 (n, dimension). Made by `load_dense`."""

    _part = "dense"

    def _own(self, plan: _Plan, found: Embeddings) -> NDArray[np.float32]:
        assert found.dense is not None
        return np.stack(plan.in_order(found.dense)) if plan.waiting else found.dense


class SparseHalf(_Half[SparseVectors, SparseVector]):
    """Lexical weights of queries and passages. Made by `load_sparse`."""

    _part = "sparse"

    def _own(self, plan: _Plan, found: Embeddings) -> SparseVectors:
        assert found.sparse is not None
        if not plan.waiting:
            return found.sparse
        return SparseVectors.from_rows(plan.in_order(found.sparse), found.sparse.size)


class _Pair:
    """The halves over one model with the same settings, and vectors that wait for the half they belong to."""

    def __init__(self) -> None:
        self.halves: dict[Part, WeakSet[_Half[Any, Any]]] = {"dense": WeakSet(), "sparse": WeakSet()}
        self.lock = threading.Lock()
        self._waiting: dict[Part, dict[tuple[TextKind, bytes], Any]] = {"dense": {}, "sparse": {}}
        self._bytes: dict[Part, int] = {"dense": 0, "sparse": 0}

    @property
    def parts(self) -> list[Part]:
        """The parts that somebody holds a half for."""
        return [part for part, halves in self.halves.items() if halves]

    def take(self, part: Part, kind: TextKind, texts: list[str]) -> dict[str, Any]:
        """What waits of these texts; each vector is handed out once."""
        waiting = self._waiting[part]
        if not waiting:
            return {}
        keys = {text: _key(kind, text) for text in texts}
        with self.lock:
            found = {text: waiting.pop(key) for text, key in keys.items() if key in waiting}
            self._bytes[part] -= sum(map(_size, found.values()))
        return found

    def leave(self, part: Part, kind: TextKind, rows: Mapping[str, Any]) -> None:
        """Keep these vectors until they are asked for; the oldest go when there are too many."""
        keyed = {_key(kind, text): row for text, row in rows.items()}
        waiting = self._waiting[part]
        with self.lock:
            for key, row in keyed.items():
                if key in waiting:
                    self._bytes[part] -= _size(waiting.pop(key))
                waiting[key] = row
                self._bytes[part] += _size(row)
            while self._bytes[part] > _MOST_WAITING:
                self._bytes[part] -= _size(waiting.pop(next(iter(waiting))))

    def forget(self) -> None:
        """Nothing waits any more: there is no other half to ask for it."""
        with self.lock:
            for part, waiting in self._waiting.items():
                waiting.clear()
                self._bytes[part] = 0


class _Plan:
    """One call: which of its texts wait in the pair, which are to be computed, and which parts of them.

    Attributes:
        waiting: {text: vector}, what an earlier pass computed for this half.
        missing: The texts to compute.
        parts: What to compute of these.
    """

    def __init__(self, pair: _Pair, part: Part, texts: list[str], kind: TextKind) -> None:
        self.kind = kind
        self.parts: list[Part] = pair.parts
        if len(self.parts) == 1:
            pair.forget()
        self.waiting = pair.take(part, kind, texts)
        self.missing = [text for text in texts if text not in self.waiting]
        self._pair, self._part, self._texts = pair, part, texts

    def leave_the_others(self, found: Embeddings) -> None:
        """Hand what was computed for the other half to the pair."""
        if found.dense is None or found.sparse is None:
            return
        # copies, because a view of one row keeps the whole array in memory
        if self._part == "dense":
            rows = (SparseVector(row.indices.copy(), row.values.copy()) for row in found.sparse)
            self._pair.leave("sparse", self.kind, dict(zip(self.missing, rows, strict=True)))
        else:
            self._pair.leave("dense", self.kind, dict(zip(self.missing, map(np.copy, found.dense), strict=True)))

    def in_order(self, computed: Iterable[R]) -> list[R]:
        """What waited and what was computed, in the order of the call."""
        rows = {**self.waiting, **dict(zip(self.missing, computed, strict=True))}
        return [rows[text] for text in self._texts]


def _size(row: Any) -> int:
    numbers = row.indices.nbytes + row.values.nbytes if isinstance(row, SparseVector) else row.nbytes
    return int(numbers) + _OVERHEAD


def _key(kind: TextKind, text: str) -> tuple[TextKind, bytes]:
    """A digest, so that long texts do not wait with their vectors."""
    return kind, hashlib.blake2b(text.encode(), digest_size=16).digest()


#: A pair lives as long as one of its halves.
_pairs: WeakValueDictionary[Hashable, _Pair] = WeakValueDictionary()
_pairs_lock = threading.Lock()


def _pair_for(*settings: Hashable) -> _Pair:
    with _pairs_lock:
        return _pairs.setdefault(settings, _Pair())


def _after_fork_in_child() -> None:
    global _pairs_lock
    _pairs_lock = threading.Lock()
    for pair in list(_pairs.values()):
        pair.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
