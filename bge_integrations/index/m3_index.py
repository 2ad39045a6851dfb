"""M3Index stores documents and searches them by bge-m3's three representations, or by any model's dense vectors."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from bge_integrations.errors import IndexFormatError, InvalidInputError
from bge_integrations.index import flow
from bge_integrations.index.filters import dated_keys, parse
from bge_integrations.index.folder import Folder
from bge_integrations.index.opening import open_index
from bge_integrations.index.records import from_payload, point_of
from bge_integrations.index.search import Searcher
from bge_integrations.index.search_arguments import NO_DEFAULTS, Search, SearchDefaults
from bge_integrations.index.substrings import resolve
from bge_integrations.index.writing import Writer
from bge_integrations.validation import check_path, check_query, check_texts

if TYPE_CHECKING:
    from contextlib import ExitStack

    from numpy.typing import ArrayLike, NDArray
    from qdrant_client import QdrantClient

    from bge_integrations.core.embedder import Embedder, Input
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.index.documents import OnEmpty
    from bge_integrations.index.filters import Condition, Filter
    from bge_integrations.index.manifest import MultiVectorStorage, Quantization
    from bge_integrations.index.opening import OpenedIndex
    from bge_integrations.index.records import Hit, StoredDocument
    from bge_integrations.index.search_arguments import DefaultSettings, Fusion, SearchSettings
    from bge_integrations.scoring import Mode, Representation, Weights

_PAGE = 256


class M3Index:
    """An index of documents with bge-m3's dense, sparse and multi-vectors, searched by one or by all of them.

    Open it with `M3Index.open`. With a model that computes only dense vectors, it holds only these. It is safe to use
    from any number of threads and tasks, and works as a context manager (`with` and `async with`).

    Example:
        >>> from bge_integrations.index import M3Index
        >>> with M3Index.open("pandas-index", model="BAAI/bge-m3") as index:
        ...     index.add(["Pandas eat bamboo.", "Rome lies on the Tiber."], metadatas=[{"year": 2020}, {"year": 1960}])
        ...     hit = index.search("What do pandas eat?", k=1, filter={"year": {"$gte": 2000}})[0]
        >>> hit.text, hit.score, hit.scores["sparse"]

    When `add` or `delete` returns, its changes are on disk.

    Attributes:
        embedder: Encodes documents and queries.
        location: The folder, URL, or ":memory:".
    """

    def __init__(self, opened: OpenedIndex) -> None:
        self.embedder = opened.embedder
        self.location = opened.location
        self._store = opened.store
        self._writer = Writer(self._store, self.embedder.takes_images)
        self._searcher = Searcher(self._store)
        self._finalizer = weakref.finalize(self, _close, opened.owned, os.getpid())

    @classmethod
    def open(
        cls,
        path_or_url: str | os.PathLike[str] | QdrantClient,
        model: str | os.PathLike[str] | Embedder | None = None,
        *,
        multi_vectors: MultiVectorStorage | None = None,
        quantization: Quantization | None = None,
        collection: str = "documents",
        api_key: str | None = None,
        create: bool = True,
        read_only: bool = False,
        **settings: Any,
    ) -> M3Index:
        """Open an index, or create it if it does not exist.

        If the folder is open in this process already, both indexes share its engine: each sees what the other adds, and
        closing one leaves the other open. Each has its own embedder, which must fit as in any opening.

        Args:
            path_or_url: A folder; "http://…" or "https://…", the URL of a Qdrant server (1.16 or newer) or cluster; a
                `QdrantClient`; or ":memory:", a temporary folder that is removed when the index is closed.
            model: An embedding model: hub id, folder, "pocket", the URL of `bge serve` (with the key in the environment
                variable BGE_API_KEY), or a loaded embedder, which stays open when the index is closed. Models of the
                bge-m3 family have all three representations, all others only dense vectors.
                Defaults to the index's own model, or "BAAI/bge-m3" for a new index.
            multi_vectors: How a token's vector is stored: "float16" or "float32", in 2 or 4 kB with bge-m3; "int8", in
                1 kB; "binary", in 132 bytes, with estimated scores. "recompute" stores none and encodes each
                query's candidates. Defaults to the index's setting. For a new one whose model has multi-vectors,
                defaults to "int8" if that takes at most 150 bytes, and otherwise to "binary"; on a server, which
                supports neither, to "float16".
            quantization: "int8" searches the dense vectors with a quarter of the memory once the index is optimised
                (see `optimize`), and scores the results exactly. Defaults to the index's setting, or None for a new
                one.
            collection: The collection's name on a server.
            api_key: The server's API key.
            create: Create the index if it does not exist.
            read_only: Only search: `add`, `delete` and `optimize` raise NotSupportedError, and nothing is created. Any
                number of processes can open a folder so, also on a read-only file system: each searches a private copy
                in its temporary folder (see the module `tempfile`), made when it is opened, because the engine can't
                share its files. The copy does not see later changes. If this process has the folder open already, it
                is shared instead. With a server, nothing is copied.
            settings: Any keyword of `load_embedder`: device, dtype, max_length, revision, cache_folder,
                local_files_only, …

        Raises:
            IndexNotFoundError: The index does not exist, and `create` is False.
            WrongModelError: The index was made with another model or other settings.
            IndexLockedError: The folder is open in another process; with `read_only`, it is open there for writing.
            IndexFormatError: The folder or collection contains something else, or an index of a newer release.
            DiskFullError: There is not enough disk space for a new index, or for the copy of `read_only`.
            StorageError: The engine failed, or the server could not be reached.
            InvalidInputError: An argument is invalid.
        """
        storage = {"multi_vectors": multi_vectors, "quantization": quantization}
        return cls(open_index(path_or_url, model, storage, collection, api_key, create, read_only, settings))

    def add(
        self,
        texts: Iterable[Input],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        *,
        show_progress: bool = False,
        on_truncate: OnTruncate = "warn",
        on_empty: OnEmpty = "warn",
    ) -> list[str]:
        """Add documents, or replace those with the same id. A document with unchanged text is not encoded again.

        Documents are encoded and stored a few dozen at a time, which limits the memory. After an interruption, the same
        call skips documents that are already stored. A list is checked as a whole before anything is stored; an
        iterator is checked as it is read.

        Args:
            texts: The documents. If the model takes images, a document can also be a dict of "image", or of "image" and
                "text", as in `Embedder.encode`. Its text is stored ("" without one), the image is not: keep its path in
                the metadata.
            ids: One unique id per text. Missing ids (None) are derived from text and metadata.
            metadatas: One dict of JSON values per text. It replaces the stored metadata; if left out, the stored
                metadata is removed.
            show_progress: Show a progress bar.
            on_truncate: As in `Embedder.encode`, but for each few dozen texts that are stored together.
            on_empty: What to do with texts that have no words: "" or "***". "warn" stores them and issues one
                EmptyTextWarning: `get` and `scan` return them, but no search finds them. "skip" leaves them out, and
                removes a stored document with the same id; "error" raises.

        Returns:
            The ids of the stored documents in the order of the texts, once they are on disk.

        Raises:
            InvalidInputError: A text, id or metadata is invalid; the message says which.
            DiskFullError: There is not enough disk space. Documents stored before are kept.
        """
        return flow.run(self._writer.add(texts, ids, metadatas, show_progress, on_truncate, on_empty), self.embedder)

    async def aadd(
        self,
        texts: Iterable[Input],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        *,
        show_progress: bool = False,
        on_truncate: OnTruncate = "warn",
        on_empty: OnEmpty = "warn",
    ) -> list[str]:
        """Async version of `add`; does not block the event loop. If cancelled, documents stored before are kept."""
        return await flow.arun(
            self._writer.add(texts, ids, metadatas, show_progress, on_truncate, on_empty), self.embedder
        )

    def delete(self, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Delete documents by their ids, or those that match a filter.

        Returns:
            The number of documents deleted. Unknown ids are ignored.

        Raises:
            InvalidInputError: Neither or both arguments are given.
        """
        if (ids is None) == (filter is None):
            raise InvalidInputError("delete needs either ids or a filter", advice="pass one of them")
        return self._writer.delete([] if ids is None else check_texts(ids, "ids"), self._condition(filter))

    async def adelete(self, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Async version of `delete`; does not block the event loop."""
        return await asyncio.to_thread(self.delete, ids, filter)

    def get(self, ids: Iterable[str]) -> list[StoredDocument]:
        """Return the documents with these ids, in the same order. Unknown ids are skipped."""
        points = [point_of(i) for i in check_texts(ids, "ids")]
        with self._store.read() as engine:
            payloads = engine.fetch(points) if points else {}
        return [from_payload(payloads[point]) for point in points if point in payloads]

    async def aget(self, ids: Iterable[str]) -> list[StoredDocument]:
        """Async version of `get`; does not block the event loop."""
        return await asyncio.to_thread(self.get, ids)

    def dense_vectors(self, ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the dense vectors, float32 (dimension,), of the documents with these ids.

        Unknown ids are skipped, and so are documents without words, which have none.
        """
        id_of = {point_of(i): i for i in check_texts(ids, "ids")}
        with self._store.read() as engine:
            vectors = engine.dense_vectors(list(id_of)) if id_of else {}
        return {id_of[point]: vector for point, vector in vectors.items()}

    def scan(self, filter: Filter | None = None) -> Iterator[StoredDocument]:
        """Yield all documents, or those that match a filter, in no particular order. Reads one page at a time.

        Documents added or deleted during the scan may or may not appear. Every other document appears once.
        """
        condition = resolve(self._condition(filter), self._store)
        after: str | None = None
        while True:
            with self._store.read() as engine:
                page, after = engine.page(condition, after, _PAGE)
            yield from map(from_payload, page)
            if after is None:
                return

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of documents, or of the documents that match a filter."""
        condition = resolve(self._condition(filter), self._store)
        with self._store.read() as engine:
            return engine.count(condition)

    @property
    def representations(self) -> tuple[Representation, ...]:
        """What the index can be searched by: "dense", and with bge-m3 also "sparse" and "multi_vector"."""
        return self._store.shared.manifest.representations

    @property
    def defaults(self) -> SearchDefaults:
        """The mode, weights, fusion and candidates of a search that does not choose its own."""
        manifest = self._store.shared.manifest
        return SearchDefaults.of(manifest.representations, manifest.defaults)

    def set_defaults(self, **settings: Unpack[DefaultSettings]) -> None:
        """Keep defaults for `mode`, `weights`, `fusion` or `candidates` in the index; None removes one.

        They are on disk when this returns, and every search that does not choose its own uses them, here and wherever
        the index is opened later.

        Example:
            >>> from bge_integrations.index import M3Index
            >>> with M3Index.open("index", model="pocket") as index:
            ...     index.set_defaults(weights=(0.4, 0.2, 0.4), candidates=50)

        Raises:
            InvalidInputError: A value is invalid, or the index lacks a representation that it needs.
            NotSupportedError: The index was opened with `read_only=True`.
        """
        if unknown := settings.keys() - NO_DEFAULTS.keys():
            raise InvalidInputError(
                f"an index keeps no default for {', '.join(sorted(unknown))}",
                advice=f"use {', '.join(NO_DEFAULTS)}",
            )
        with self._store.write() as engine:
            changed = self._store.shared.manifest.with_defaults(settings)
            engine.write_manifest(changed)
            self._store.shared.manifest = changed

    def search(
        self,
        query: Input,
        k: int = 10,
        *,
        mode: Mode | None = None,
        weights: Weights | None = None,
        fusion: Fusion | None = None,
        filter: Filter | None = None,
        candidates: int | None = None,
    ) -> list[Hit]:
        """Return the k best documents for a query, best first.

        The modes "dense" and "sparse" search by that score alone. "multi_vector" and "hybrid" retrieve the best
        `candidates` by dense and by sparse scores, and then compute all scores of all of these. So a document that only
        one of the two searches retrieved still gets its real score in the other.

        Arguments that are None take the index's `defaults`: "hybrid" ("dense" if the index has only dense vectors),
        weights of 1, "weighted" and 200 candidates, unless `set_defaults` has changed them.

        Args:
            query: The query; if the model takes images, also a dict of "image", "text" or both.
            k: Maximum number of hits. A sparse search finds only documents that share a token with the query.
            mode: The scores to use.
            weights: Weights of the dense, sparse and multi-vector scores in "hybrid", which they imply. A score of
                weight 0 is not computed.
            fusion: "weighted" for the weighted mean of the scores, as in `scoring.hybrid_scores`; "rrf" for
                `scoring.reciprocal_rank_fusion` of the candidates' ranks by each score.
            filter: A filter on the metadata; see `bge_integrations.index.filters`.
            candidates: Number of candidates from dense and from sparse search, at least k.

        Raises:
            InvalidInputError: An argument is invalid, or the index lacks a representation that it needs.
            ClosedError: The index was closed.
        """
        return self.search_many(
            self._checked(query), k, mode=mode, weights=weights, fusion=fusion, filter=filter, candidates=candidates
        )[0]

    async def asearch(self, query: Input, k: int = 10, **settings: Unpack[SearchSettings]) -> list[Hit]:
        """Async version of `search`; does not block the event loop."""
        return (await self.asearch_many(self._checked(query), k, **settings))[0]

    def search_many(self, queries: Iterable[Input], k: int = 10, **settings: Unpack[SearchSettings]) -> list[list[Hit]]:
        """Search for each query as `search` does. Queries are encoded together and sent to the engine in batches."""
        return flow.run(self._searcher.search(queries, self._search(k, **settings)), self.embedder)

    async def asearch_many(
        self, queries: Iterable[Input], k: int = 10, **settings: Unpack[SearchSettings]
    ) -> list[list[Hit]]:
        """Async version of `search_many`; does not block the event loop."""
        return await flow.arun(self._searcher.search(queries, self._search(k, **settings)), self.embedder)

    def search_by_vector(
        self, vector: ArrayLike, k: int = 10, *, filter: Filter | None = None, candidates: int = 200
    ) -> list[Hit]:
        """Return the k best documents by the dot product of their dense vectors with `vector`, float32 (dimension,)."""
        search = self._search(k, filter=filter, mode="dense", candidates=candidates)
        try:
            dense = np.asarray(vector, np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the vector must be {self.embedder.dimension} finite numbers ({error})", argument="vector"
            ) from error
        if dense.shape != (self.embedder.dimension,) or not np.isfinite(dense).all():
            raise InvalidInputError(
                f"the vector must be {self.embedder.dimension} finite numbers, got the shape {dense.shape}",
                argument="vector",
            )
        return self._searcher.search_by_vector(dense, search)

    def flush(self) -> None:
        """Wait until everything written is on disk. `add` and `delete` call this themselves."""
        self._writer.flush()

    async def aflush(self) -> None:
        """Async version of `flush`; does not block the event loop."""
        await asyncio.to_thread(self.flush)

    def optimize(self) -> None:
        """Build the search graphs, and wait until they are done. After 20 000 new documents, this starts by itself.

        The graphs are built in a separate process on a copy of the files. Searches continue meanwhile; writes wait only
        while the files are copied and when the index switches to the copy. A server does all this by itself.

        Raises:
            DiskFullError: There is not enough disk space for the copy.
            StorageError: Building failed; the index is unchanged.
        """
        self._store.check_writable()
        self._store.engine.optimize()

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """Copy the index to another folder without encoding anything. This index stays open.

        Raises:
            IndexFormatError: The folder is not empty.
            DiskFullError: There is not enough disk space.
            NotSupportedError: The index is on a server; use the server's snapshots.
        """
        engine = self._store.engine
        folder = Folder(check_path(path, "path"))
        try:
            if folder.manifest() is not None:
                raise IndexFormatError(f"{folder.location} is already an index", advice="copy to a new folder")
            engine.copy_to(folder, self._store.shared.manifest)
        finally:
            folder.close()

    def close(self) -> None:
        """Flush, and release the model and the folder or server connection. A second call does nothing.

        The folder is unlocked when the last index of this process on it is closed.
        """
        self._store.close()
        self._finalizer()  # without the lock, which the optimiser may need to finish

    async def aclose(self) -> None:
        """Async version of `close`; does not block the event loop."""
        await asyncio.to_thread(self.close)

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # even if it is empty

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self.get([identifier]))

    def __iter__(self) -> Iterator[StoredDocument]:
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

    def _checked(self, query: Input) -> list[Input]:
        """Return one query as a list."""
        return [query] if self.embedder.takes_images and isinstance(query, Mapping) else [*check_query(query)]

    def _condition(self, filter: Filter | None) -> Condition | None:
        condition = None if filter is None else parse(filter)
        fields = self._store.shared.fields
        if condition and (key := next((key for key in dated_keys(condition) if fields.get(key) == "float"), "")):
            # the engines would compare the numbers as seconds
            raise InvalidInputError(
                f"filter[{key!r}] has a date as bound, but the documents have numbers there",
                argument="filter",
                advice="use numbers as bounds",
            )
        return condition

    def _search(self, k: int, filter: Filter | None = None, **settings: Any) -> Search:
        _ = self._store.engine  # raises ClosedError before anything is encoded
        manifest = self._store.shared.manifest
        return Search.of(k, self._condition(filter), held=manifest.representations, kept=manifest.defaults, **settings)


def _close(owned: ExitStack, pid: int) -> None:
    """Close everything that an index opened, except in a forked process, whose parent still uses it."""
    if os.getpid() == pid:
        owned.close()
