"""Where an index lies, and the embedder that it is opened with."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bge_integrations.core.embedder import Embedder
from bge_integrations.core.loading import load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.index.folder import Folder

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from bge_integrations.index.engine import Engine
    from bge_integrations.index.locking import ReadWriteLock
    from bge_integrations.index.manifest import Manifest
    from bge_integrations.index.server import Collection

MEMORY = ":memory:"
_DEFAULT_MODEL = "BAAI/bge-m3"


def store_at(
    place: str | os.PathLike[str] | QdrantClient, collection: str, api_key: str | None, create: bool, owned: ExitStack
) -> Folder | Collection:
    """Where the index lies."""
    if isinstance(place, (str, os.PathLike)):
        name = os.fspath(place)
        if name == MEMORY:
            # not a TemporaryDirectory, which a forked process would remove at its end
            folder = Folder(tempfile.mkdtemp(prefix="bge-index-"))
            owned.callback(shutil.rmtree, folder.path, ignore_errors=True)
        elif name.startswith(("http://", "https://")):
            from bge_integrations.index.server import connect

            return connect(name, collection, api_key, owned)
        else:
            folder = Folder(name, create)
        owned.callback(folder.close)
        return folder
    from bge_integrations.index.server import Collection

    return Collection(place, collection)


def engine_of(store: Folder | Collection, manifest: Manifest | None, lock: ReadWriteLock) -> Engine:
    if isinstance(store, Folder):
        try:
            from bge_integrations.index.edge import EdgeEngine
        except ImportError as error:
            raise ImportError(
                "an index in a folder needs Qdrant Edge: pip install 'qdrant-edge-py>=0.9,<0.10'"
            ) from error
        return EdgeEngine(store, manifest, lock)
    from bge_integrations.index.server import QdrantEngine

    return QdrantEngine(store, manifest)


def embedder_for(
    model: str | os.PathLike[str] | Embedder | None, settings: dict[str, Any], found: Manifest | None, owned: ExitStack
) -> Embedder:
    if isinstance(model, Embedder):
        if given := [name for name, value in settings.items() if value]:
            raise InvalidInputError(f"{', '.join(given)}: give these where the embedder is loaded")
        embedder = model
    else:
        if found is not None and model is None:
            settings = {**settings, "revision": settings["revision"] or found.revision}
        name = model or (found.model if found else _DEFAULT_MODEL)
        embedder = load_embedder(name, **settings)
        owned.callback(embedder.close)
        if found is not None and settings["max_length"] is None and embedder.max_length != found.max_length:
            found.check_weights(embedder)
            embedder = load_embedder(name, **{**settings, "max_length": found.max_length})
            owned.callback(embedder.close)
    if not embedder.has_sparse:
        raise InvalidInputError(f"{embedder.name} has no sparse and multi-vector heads; use BAAI/bge-m3 (or 'pocket')")
    return embedder
