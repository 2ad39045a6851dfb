"""M3Index: bge-m3's three representations of documents, stored and searched."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bge_integrations.core.embedder import Embedder
from bge_integrations.errors import ClosedError, IndexFormatError, IndexNotFoundError, InvalidInputError
from bge_integrations.index.documents import batches_of, chunks_of, entries_of, field_kind, records_of
from bge_integrations.index.filters import dated_keys, parse
from bge_integrations.index.folder import Folder
from bge_integrations.index.locking import ReadWriteLock
from bge_integrations.index.manifest import Manifest, check_choice
from bge_integrations.index.opening import MEMORY, embedder_for, engine_of, store_at
from bge_integrations.index.records import (
    Entry,
    Hit,
    digest,
    from_payload,
    point_of,
)
from bge_integrations.index.search import Search, find, rank, vectors_of
from bge_integrations.outputs import MultiVectors
from bge_integrations.progress import progress_bar
from bge_integrations.scoring import max_sim
from bge_integrations.validation import check_query, check_texts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from qdrant_client import QdrantClient

    from bge_integrations.core.request import OnTruncate
    from bge_integrations.index.engine import Engine
    from bge_integrations.index.filters import Condition, Filter
    from bge_integrations.index.manifest import MultiVectorStorage, Quantization
    from bge_integrations.index.search import Fusion, Parts, QueryVectors
    from bge_integrations.outputs import Embeddings
    from bge_integrations.scoring import Mode, Weights

_PAGE = 256
#: A flush takes about as long after one document as after so many.
_FLUSHED_DOCUMENTS = 256
#: More keys of the metadata are not indexed: each costs memory, and so many are hardly chosen by hand.
_MOST_FIELDS = 100


class M3Index:
    """Documents with bge-m3's dense, sparse and multi-vectors, searched by any of them or all together.

    Made by `M3Index.open`; safe to use from any number of threads and tasks. Also a context manager, also `async`.

    Example:
        >>> from bge_integrations.index import M3Index
        >>> with M3Index.open("pandas-index", model="BAAI/bge-m3") as index:
        ...     index.add(["Pandas eat bamboo.", "Rome lies on the Tiber."], metadatas=[{"year": 2020}, {"year": 1960}])
        ...     hit = index.search("What do pandas eat?", k=1, filter={"year": {"$gte": 2000}})[0]
        >>> hit.text, hit.score, hit.scores["sparse"]

    What `add` and `delete` have acknowledged by returning is on disk.

    Attributes:
        embedder: Encodes documents and queries.
        location: The folder, URL, or ":memory:".
    """

    def __init__(
        self,
        embedder: Embedder,
        engine: Engine,
        lock: ReadWriteLock,
        manifest: Manifest,
        location: str,
        owned: ExitStack,
    ) -> None:
        self.embedder = embedder
        self.location = location
        self._engine = engine
        self._lock = lock
        self._manifest = manifest
        self._stores_multi_vectors = manifest.multi_vectors != "recompute"
        self._fields = engine.indexed_fields()
        self._finalizer = weakref.finalize(self, _close, owned, os.getpid())
        self._closed = False
        self._written = self._flushed = 0  # documents, counted under the lock

    @classmethod
    def open(
        cls,
        path_or_url: str | os.PathLike[str] | QdrantClient,
        model: str | os.PathLike[str] | Embedder | None = None,
        *,
        device: str | list[str] | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        cache_folder: str | None = None,
        local_files_only: bool = False,
        multi_vectors: MultiVectorStorage | None = None,
        quantization: Quantization | None = None,
        collection: str = "documents",
        api_key: str | None = None,
        create: bool = True,
    ) -> M3Index:
        """Open an index, or make a new one where there is none.

        Args:
            path_or_url: A folder, made where there is none; "http://…" or "https://…", a Qdrant server (1.16 or newer)
                or cluster; a `QdrantClient` of your own; or ":memory:", an index in a temporary folder that goes when
                it is closed.
            model: Of the bge-m3 family: hub id, folder, "pocket", or a loaded embedder, which is not closed with the
                index. None takes the model that the index was made with; for a new one "BAAI/bge-m3".
            device, dtype, max_length, revision, cache_folder, local_files_only: As in `load_embedder`.
            multi_vectors: "float16" or "float32" stores them, 2 or 4 kB a token with bge-m3; "recompute" stores none
                and encodes the candidates for each query. None takes what the index has; "float16" for a new one.
            quantization: "int8" searches the dense vectors in a quarter of the memory, once the index is optimised,
                and scores what is found exactly. None takes what the index has; for a new one, none.
            collection, api_key: On a server.
            create: Make a new index where there is none.

        Raises:
            IndexNotFoundError: There is none, and `create` is False.
            WrongModelError: The index was made with another model.
            IndexLockedError: The folder is open already.
            IndexFormatError: Something else is there, or an index of a newer release.
            DiskFullError: There is no room for a new index.
            StorageError: The engine failed, or the server could not be reached.
            InvalidInputError: An argument can't be used, or the model lacks the heads.
        """
        for name, value in (("multi_vectors", multi_vectors), ("quantization", quantization)):
            if value is not None:
                check_choice(name, value)
        settings = {
            "device": device,
            "dtype": dtype,
            "max_length": max_length,
            "revision": revision,
            "cache_folder": cache_folder,
            "local_files_only": local_files_only,
        }
        with ExitStack() as owned:  # closes all of it again where something fails
            store = store_at(path_or_url, collection, api_key, create, owned)
            found = store.manifest()
            if found is None and not create:
                raise IndexNotFoundError(f"there is no index at {store.location}; make one, or check the place")
            if found is not None:
                found.check_storage(multi_vectors=multi_vectors, quantization=quantization)
            embedder = embedder_for(model, settings, found, owned)
            if found is not None:
                found.check(embedder)
            manifest = found or Manifest.of(embedder, multi_vectors or "float16", quantization)
            lock = ReadWriteLock()
            engine = engine_of(store, None if found else manifest, lock)
            owned.callback(engine.close)
            location = MEMORY if path_or_url == MEMORY else store.location
            return cls(embedder, engine, lock, manifest, location, owned.pop_all())
        raise AssertionError("not reached")

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        *,
        show_progress: bool = False,
        on_truncate: OnTruncate = "warn",
    ) -> list[str]:
        """Add documents. One that is there with the same text costs no model run; a changed text replaces it.

        Documents are encoded and stored some dozens at a time, so the memory is bounded, and what was stored before
        an interruption is passed over when the same call is made again. A list is checked whole before anything is
        stored; an iterator is read as it goes.

        Args:
            texts: The documents.
            ids: One for each text, no two the same; None, or None for one, takes an id made from text and metadata.
            metadatas: One for each text: what JSON can hold. They replace what was there, also where they are left out.
            show_progress: Show a bar.
            on_truncate: As in `Embedder.encode`, for those stored together.

        Returns:
            The ids, in the order of the texts, once all is on disk.

        Raises:
            InvalidInputError: A text, an id or metadata can't be used; the message names its place.
            DiskFullError: There is no room; what was stored before stays.
        """
        added: list[str] = []
        with progress_bar(_length(texts), "document", show_progress) as bar:
            for chunk in chunks_of(entries_of(texts, ids, metadatas)):
                pending: Sequence[Entry] = list({entry.id: entry for entry in chunk}.values())
                while pending:
                    plan = self._plan(pending)
                    encoded = self.embedder.encode(plan.texts, **self._as_passages(on_truncate)) if plan.new else None
                    pending = self._carry_out(plan, encoded)
                added += [entry.id for entry in chunk]
                bar.update(len(chunk))
        self._flush_the_rest()
        return added

    async def aadd(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        *,
        show_progress: bool = False,
        on_truncate: OnTruncate = "warn",
    ) -> list[str]:
        """As `add`, without blocking the event loop; cancelled, it keeps what was stored before."""
        added: list[str] = []
        chunks = chunks_of(await asyncio.to_thread(entries_of, texts, ids, metadatas))
        with progress_bar(_length(texts), "document", show_progress) as bar:
            while chunk := await asyncio.to_thread(next, chunks, None):
                pending: Sequence[Entry] = list({entry.id: entry for entry in chunk}.values())
                while pending:
                    plan = await asyncio.to_thread(self._plan, pending)
                    encoded = (
                        await self.embedder.aencode(plan.texts, **self._as_passages(on_truncate)) if plan.new else None
                    )
                    pending = await asyncio.to_thread(self._carry_out, plan, encoded)
                added += [entry.id for entry in chunk]
                bar.update(len(chunk))
        await asyncio.to_thread(self._flush_the_rest)
        return added

    def delete(self, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Delete documents by their ids, or those that match a filter.

        Returns:
            How many there were; unknown ids are passed over.

        Raises:
            InvalidInputError: Neither or both are given.
        """
        if (ids is None) == (filter is None):
            raise InvalidInputError("delete takes ids or a filter, one of them")
        wanted = [] if ids is None else [point_of(i) for i in check_texts(ids, "ids")]
        condition = self._condition(filter)
        with self._lock.alone():
            engine = self._open_engine()
            points = list(engine.fetch(wanted, ["id"])) if wanted else []
            if condition is not None:
                points = self._points(condition)
            for begin in range(0, len(points), _PAGE):
                engine.remove(points[begin : begin + _PAGE])
        self.flush()
        return len(points)

    async def adelete(self, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """As `delete`, without blocking the event loop."""
        return await asyncio.to_thread(self.delete, ids, filter)

    def get(self, ids: Iterable[str]) -> list[Entry]:
        """The documents with these ids, in their order; unknown ones are left out."""
        points = [point_of(i) for i in check_texts(ids, "ids")]
        with self._lock.shared():
            found = self._open_engine().fetch(points) if points else {}
        return [from_payload(found[point]) for point in points if point in found]

    async def aget(self, ids: Iterable[str]) -> list[Entry]:
        """As `get`, without blocking the event loop."""
        return await asyncio.to_thread(self.get, ids)

    def dense_vectors(self, ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The dense vectors, float32 (dimension,), of those of these documents that are there."""
        points = {point_of(i): i for i in check_texts(ids, "ids")}
        with self._lock.shared():
            found = self._open_engine().dense_vectors(list(points)) if points else {}
        return {points[point]: vector for point, vector in found.items()}

    def scan(self, filter: Filter | None = None) -> Iterator[Entry]:
        """All documents, or those that match, in no order of meaning, a page at a time.

        Documents added or deleted meanwhile may or may not be among them; the others come once each.
        """
        condition = self._condition(filter)
        after: str | None = None
        while True:
            with self._lock.shared():
                page, after = self._open_engine().page(condition, after, _PAGE)
            yield from map(from_payload, page)
            if after is None:
                return

    def count(self, filter: Filter | None = None) -> int:
        """How many documents there are, or match."""
        condition = self._condition(filter)
        with self._lock.shared():
            return self._open_engine().count(condition)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        mode: Mode = "hybrid",
        weights: Weights = (1.0, 1.0, 1.0),
        fusion: Fusion = "weighted",
        filter: Filter | None = None,
        candidates: int = 200,
    ) -> list[Hit]:
        """The best documents for a query.

        "dense" and "sparse" search by that score alone. "multi_vector" and "hybrid" take the best `candidates` by dense
        and as many by sparse scores, and then score all of these exactly: nothing counts as 0 because another leg found
        it.

        Args:
            query: The question.
            k: How many hits at most. A sparse search finds only documents that share a token with the query.
            mode: What the score is made of.
            weights: Of dense, sparse and multi-vector scores in "hybrid". One of weight 0 is not computed.
            fusion: "weighted" is `scoring.hybrid_scores`: the weighted mean of the scores; "rrf" is
                `scoring.reciprocal_rank_fusion` of the candidates' ranks by each score.
            filter: On the metadata; see `bge_integrations.index.filters`.
            candidates: How many each of the two proposes, at least k.

        Raises:
            InvalidInputError: An argument can't be used.
            ClosedError: After `close()`.
        """
        return self.search_many(
            check_query(query), k, mode=mode, weights=weights, fusion=fusion, filter=filter, candidates=candidates
        )[0]

    async def asearch(
        self,
        query: str,
        k: int = 10,
        *,
        mode: Mode = "hybrid",
        weights: Weights = (1.0, 1.0, 1.0),
        fusion: Fusion = "weighted",
        filter: Filter | None = None,
        candidates: int = 200,
    ) -> list[Hit]:
        """As `search`, without blocking the event loop."""
        hits = await self.asearch_many(
            check_query(query), k, mode=mode, weights=weights, fusion=fusion, filter=filter, candidates=candidates
        )
        return hits[0]

    def search_many(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        mode: Mode = "hybrid",
        weights: Weights = (1.0, 1.0, 1.0),
        fusion: Fusion = "weighted",
        filter: Filter | None = None,
        candidates: int = 200,
    ) -> list[list[Hit]]:
        """As `search` for each query, all encoded together."""
        search = self._search(k, mode, weights, fusion, filter, candidates)
        encoded = self.embedder.encode(queries, **self._as_queries(search))
        found = self._find_all(encoded, search)
        if self._recomputes(search):
            texts = _texts_of(found)
            passages = self.embedder.encode(texts, **_RECOMPUTED).multi_vector
            _score_multi_vectors(found, encoded, texts, passages, search)
        return [answer.hits() for answer in found]

    async def asearch_many(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        mode: Mode = "hybrid",
        weights: Weights = (1.0, 1.0, 1.0),
        fusion: Fusion = "weighted",
        filter: Filter | None = None,
        candidates: int = 200,
    ) -> list[list[Hit]]:
        """As `search_many`, without blocking the event loop."""
        search = self._search(k, mode, weights, fusion, filter, candidates)
        encoded = await self.embedder.aencode(queries, **self._as_queries(search))
        found = await asyncio.to_thread(self._find_all, encoded, search)
        if self._recomputes(search):
            texts = _texts_of(found)
            passages = (await self.embedder.aencode(texts, **_RECOMPUTED)).multi_vector
            await asyncio.to_thread(_score_multi_vectors, found, encoded, texts, passages, search)
        return [answer.hits() for answer in found]

    def search_by_vector(
        self, vector: ArrayLike, k: int = 10, *, filter: Filter | None = None, candidates: int = 200
    ) -> list[Hit]:
        """The best documents by the dot product of their dense vector with this one, float32 (dimension,)."""
        search = self._search(k, "dense", (1.0, 0.0, 0.0), "weighted", filter, candidates)
        try:
            dense = np.asarray(vector, np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the vector must be {self.embedder.dimension} numbers: {error}") from error
        if dense.shape != (self.embedder.dimension,) or not np.isfinite(dense).all():
            raise InvalidInputError(
                f"the vector has the shape {dense.shape}; {self.embedder.dimension} finite numbers are needed"
            )
        with self._lock.shared():
            return self._find({"dense": dense}, search).hits()

    def flush(self) -> None:
        """Return when all that was written is on disk. `add` and `delete` do so themselves."""
        with self._lock.shared():
            engine = self._open_engine()
            written = self._written
            engine.flush()
            self._flushed = written

    async def aflush(self) -> None:
        """As `flush`, without blocking the event loop."""
        await asyncio.to_thread(self.flush)

    def optimize(self) -> None:
        """Build the search graphs now and wait for it; from 20 000 new documents on that happens in the background.

        It takes place on a copy of the folder, in a process of its own: searches go on, and writes wait only while the
        files are copied and at the change-over. A server does this by itself.

        Raises:
            DiskFullError: There is no room for the copy.
            StorageError: It failed; the index is as it was.
        """
        self._open_engine().optimize()

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """Copy the index into another folder, without encoding anything; this one stays open as it is.

        Raises:
            IndexFormatError: There is something in that folder already.
            DiskFullError: There is no room.
            NotSupportedError: This index is on a server, which has snapshots for that.
        """
        engine = self._open_engine()
        folder = Folder(path)
        try:
            if folder.manifest() is not None:
                raise IndexFormatError(f"{folder.location} is an index already; copy to a new folder")
            engine.copy_to(folder, self._manifest)
        finally:
            folder.close()

    def close(self) -> None:
        """Flush and let go of folder, server and model. A second call does nothing."""
        with self._lock.alone():
            self._closed = True
        self._finalizer()  # without the lock, which the optimiser may wait for before it ends

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # an empty index is one

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self.get([identifier]))

    def __iter__(self) -> Iterator[Entry]:
        return self.scan()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"M3Index({self.location!r}, {self.embedder!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an open M3Index can't be pickled or copied; open it where it is used, or run a Qdrant server")

    def _open_engine(self) -> Engine:
        if self._closed:
            raise ClosedError("the index was closed; open it again")
        return self._engine

    def _points(self, condition: Condition) -> list[str]:
        points: list[str] = []
        after: str | None = None
        while True:
            page, after = self._open_engine().page(condition, after, _PAGE, ["id"])
            points += [point_of(payload["id"]) for payload in page]
            if after is None:
                return points

    def _condition(self, filter: Filter | None) -> Condition | None:
        condition = None if filter is None else parse(filter)
        if condition and (key := next((key for key in dated_keys(condition) if self._fields.get(key) == "float"), "")):
            # the engines would compare the numbers under this key as seconds
            raise InvalidInputError(f"filter[{key!r}] has a date as bound, but the documents have numbers there")
        return condition

    def _search(
        self, k: int, mode: Mode, weights: Weights, fusion: Fusion, filter: Filter | None, candidates: int
    ) -> Search:
        self._open_engine()  # before anything is encoded
        return Search.of(k, mode, weights, fusion, self._condition(filter), candidates)

    def _as_passages(self, on_truncate: OnTruncate) -> dict[str, Any]:
        multi_vector = self._stores_multi_vectors
        return {"kind": "passage", "sparse": True, "multi_vector": multi_vector, "on_truncate": on_truncate}

    def _as_queries(self, search: Search) -> dict[str, Any]:
        return {"kind": "query", **{name: name in search.needed for name in ("dense", "sparse", "multi_vector")}}

    def _recomputes(self, search: Search) -> bool:
        return "multi_vector" in search.weights and not self._stores_multi_vectors

    def _plan(self, entries: Sequence[Entry]) -> _Plan:
        """What has to be done for these documents."""
        points = [point_of(entry.id) for entry in entries]
        with self._lock.shared():
            stored = self._open_engine().fetch(points, ["text_digest", "metadata_digest"])
        plan = _Plan([], [])
        for point, entry in zip(points, entries, strict=True):
            if point not in stored or stored[point]["text_digest"] != digest(entry.text):
                plan.new.append(entry)
            elif stored[point]["metadata_digest"] != digest(entry.metadata):
                plan.relabelled.append(entry)
        return plan

    def _carry_out(self, plan: _Plan, encoded: Embeddings | None) -> list[Entry]:
        """Store what was planned, and return the documents whose text another caller has replaced meanwhile."""
        self._index_fields([*plan.new, *plan.relabelled])
        for batch in batches_of(records_of(plan.new, encoded), self._engine.largest_write):
            with self._lock.alone():
                self._written += len(batch)  # before, since a write that fails may have stored some
                self._open_engine().write(batch)
        overtaken = []
        if plan.relabelled:
            with self._lock.alone():
                engine = self._open_engine()
                stored = engine.fetch([point_of(entry.id) for entry in plan.relabelled], ["text_digest"])
                same = [e for e in plan.relabelled if stored.get(point_of(e.id)) == {"text_digest": digest(e.text)}]
                self._written += len(same)
                engine.write_payloads(same)
            overtaken = [entry for entry in plan.relabelled if entry not in same]
        if self._written - self._flushed >= _FLUSHED_DOCUMENTS:
            self.flush()
        return overtaken

    def _flush_the_rest(self) -> None:
        if self._written > self._flushed:  # by this call, or by another that this one passed over
            self.flush()

    def _index_fields(self, entries: Iterable[Entry]) -> None:
        """Make filters fast on keys that hold tags, numbers or bools, when they are first seen."""
        for entry in entries:
            for key, value in entry.metadata.items():
                if len(self._fields) < _MOST_FIELDS and key not in self._fields and (kind := field_kind(key, value)):
                    with self._lock.alone():
                        engine = self._open_engine()
                        if key not in self._fields:  # now that nobody else is at it
                            engine.index_field(key, kind)
                            self._fields[key] = kind

    def _find_all(self, encoded: Embeddings, search: Search) -> list[_Found]:
        rows = next(part for part in (encoded.dense, encoded.sparse, encoded.multi_vector) if part is not None)
        found = []
        for i in range(len(rows)):
            with self._lock.shared():  # one query at a time, so that writers get in between
                found.append(self._find(vectors_of(encoded, i), search))
        return found

    def _find(self, query: QueryVectors, search: Search) -> _Found:
        """The scores of the candidates, and the payloads of those that may be hits."""
        if not self._stores_multi_vectors:
            query = {name: vector for name, vector in query.items() if name != "multi_vector"}
        engine = self._open_engine()
        parts, candidates = find(engine, query, search)
        ranked = [] if self._recomputes(search) else rank(parts, search)
        points = candidates if self._recomputes(search) else [point for point, _ in ranked]
        return _Found(parts, ranked, engine.fetch(points) if points else {})


@dataclass
class _Plan:
    """Documents to encode and store, and documents of which only the metadata has changed."""

    new: list[Entry]
    relabelled: list[Entry]

    @property
    def texts(self) -> list[str]:
        return [entry.text for entry in self.new]


@dataclass
class _Found:
    """The scores of one query's candidates, the best and their scores, and the payloads of those that may be these."""

    parts: Parts
    ranked: list[tuple[str, float]]
    payloads: dict[str, dict[str, Any]]

    def hits(self) -> list[Hit]:
        return [
            Hit(
                **vars(from_payload(self.payloads[point])),
                score=score,
                scores={name: scores[point] for name, scores in self.parts.items()},
            )
            for point, score in self.ranked
            if point in self.payloads
        ]


#: How candidates are encoded where multi-vectors are not stored.
_RECOMPUTED: dict[str, Any] = {"kind": "passage", "dense": False, "multi_vector": True, "on_truncate": "ignore"}


def _texts_of(found: Iterable[_Found]) -> list[str]:
    """The different texts of all candidates."""
    return list(dict.fromkeys(payload["text"] for answer in found for payload in answer.payloads.values()))


def _score_multi_vectors(
    found: Sequence[_Found], queries: Embeddings, texts: Sequence[str], passages: MultiVectors | None, search: Search
) -> None:
    """Add max-sim scores to the parts, from the vectors of the texts, and rank by all of them."""
    assert queries.multi_vector is not None
    assert passages is not None
    places = {text: i for i, text in enumerate(texts)}
    for answer, query in zip(found, queries.multi_vector, strict=True):
        for name, by_point in answer.parts.items():  # without those that were deleted meanwhile, on a server
            answer.parts[name] = {point: score for point, score in by_point.items() if point in answer.payloads}
        rows = [passages[places[payload["text"]]] for payload in answer.payloads.values()]
        width = query.shape[1]
        scores = max_sim(MultiVectors.from_rows([query], width), MultiVectors.from_rows(rows, width))[0]
        answer.parts["multi_vector"] = dict(zip(answer.payloads, scores.tolist(), strict=True))
        answer.ranked = rank(answer.parts, search)


def _length(texts: object) -> int | None:
    return len(texts) if isinstance(texts, Sized) else None


def _close(owned: ExitStack, pid: int) -> None:
    """Close what an index has, but not in a forked process, whose parent goes on using it."""
    if os.getpid() == pid:
        owned.close()
