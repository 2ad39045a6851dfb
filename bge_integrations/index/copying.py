"""Copying an index to another folder or server, with its vectors, so that nothing is encoded."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from bge_integrations.errors import IndexFormatError
from bge_integrations.index.batches import batches_of
from bge_integrations.index.folder import Folder
from bge_integrations.index.locking import ReadWriteLock
from bge_integrations.index.opening import check_not_server
from bge_integrations.index.records import Record

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from bge_integrations.index.engine import Engine
    from bge_integrations.index.manifest import Manifest, MultiVectorStorage
    from bge_integrations.index.server import Collection
    from bge_integrations.index.store import Store

#: Documents that are read at a time. Writes to the original run in between.
_PAGE = 64


def copy_index(
    store: Store,
    path_or_url: str | os.PathLike[str] | QdrantClient,
    collection: str,
    api_key: str | None,
    multi_vectors: MultiVectorStorage | None,
) -> None:
    """Copy an index, as `M3Index.copy_to` describes."""
    engine, manifest = store.engine, store.shared.manifest
    with ExitStack() as owned:
        target = _open_target(path_or_url, collection, api_key, owned)
        if target.manifest() is not None:
            raise IndexFormatError(
                f"{target.location} is already an index", advice="copy to a new folder or collection"
            )
        copied = manifest.for_copy(multi_vectors, isinstance(target, Folder))
        if not isinstance(target, Folder):
            _copy_to_server(store, target, copied)
        elif (multi_vectors is not None and copied != manifest) or not engine.copy_files(target, manifest):
            _copy_to_folder(store, target, copied)


def _open_target(
    path_or_url: str | os.PathLike[str] | QdrantClient, collection: str, api_key: str | None, owned: ExitStack
) -> Folder | Collection:
    """Return the folder, which is locked, or the collection; `owned` closes it."""
    if isinstance(path_or_url, (str, os.PathLike)) and not os.fspath(path_or_url).startswith(("http://", "https://")):
        check_not_server(path_or_url)
        return owned.enter_context(closing(Folder(path_or_url)))
    from bge_integrations.index.server import Collection, connect

    if isinstance(path_or_url, (str, os.PathLike)):
        return connect(os.fspath(path_or_url), collection, api_key, owned)
    return Collection(path_or_url, collection)


def _copy_to_folder(store: Store, folder: Folder, manifest: Manifest) -> None:
    from bge_integrations.index.edge import EdgeEngine

    engine = EdgeEngine(folder, manifest, create=True, lock=ReadWriteLock(), complete=False)
    try:
        _copy_documents(store, engine, manifest)
    finally:
        engine.close()
    engine.complete(manifest)


def _copy_to_server(store: Store, collection: Collection, manifest: Manifest) -> None:
    from bge_integrations.index.server import QdrantEngine

    collection.create(manifest, complete=False)
    try:
        _copy_documents(store, QdrantEngine(collection, None), manifest)
        collection.write_manifest(manifest)
    except BaseException:
        collection.remove()
        raise


def _copy_documents(store: Store, target: Engine, manifest: Manifest) -> None:
    """Copy the documents, with the vectors that the copy stores, and the indexes of metadata keys."""
    for key, kind in dict(store.shared.fields).items():
        target.index_field(key, kind)
    after: str | None = None
    while True:
        with store.read() as engine:
            page, after = engine.records(after, _PAGE)
        records = (_with_vectors(record, manifest) for record in page)
        for batch in batches_of(records, lambda record: record.size, target.largest_request):
            target.write(batch)
        if after is None:
            return


def _with_vectors(record: Record, manifest: Manifest) -> Record:
    """Return a record with those of its vectors that the copy stores."""
    return Record(record.document, {name: record.vectors[name] for name in manifest.stored if name in record.vectors})
