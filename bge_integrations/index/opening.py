"""Opening an index: its folder or collection, its engine, and its embedder."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.core.embedder import Embedder
from bge_integrations.core.loading import load_embedder
from bge_integrations.errors import IndexNotFoundError, InvalidInputError
from bge_integrations.index.folder import Folder
from bge_integrations.index.locking import ReadWriteLock
from bge_integrations.index.manifest import CHOICES, Manifest
from bge_integrations.index.sharing import OpenFolder, hold_folder, hold_folder_for_reading
from bge_integrations.index.store import SharedEngine, Store
from bge_integrations.validation import check_choice, check_path

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from bge_integrations.index.server import Collection

MEMORY = ":memory:"
#: The settings of an embedder that `M3Index.open` accepts: every keyword of `load_embedder` but api_key, which is
#: Qdrant's there.
EMBEDDER_SETTINGS = frozenset(inspect.signature(load_embedder).parameters) - {"model", "api_key"}
#: The model of a new index, unless another is named.
DEFAULT_MODEL = "BAAI/bge-m3"
#: Arguments of `M3Index.open` to suggest if a setting is misspelt.
_OTHER_ARGUMENTS = {"model", "multi_vectors", "quantization", "collection", "api_key", "create", "read_only"}
#: The address of a server: another scheme, or a host of at least two characters (not a drive) and a port.
_ADDRESS = re.compile(
    r"(?:(?P<scheme>https?|grpcs?|tcp|qdrant)://|(?=(?:[\w.-]{2,}|\[[0-9a-f:.]+\]):\d{1,5}/?$))(?P<rest>.+)",
    re.IGNORECASE,
)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OpenedIndex:
    """An open index.

    Attributes:
        embedder: Encodes documents and queries.
        store: Stores the documents.
        location: The folder, URL, or ":memory:".
        owned: Closes everything that was opened for the index.
    """

    embedder: Embedder
    store: Store
    location: str
    owned: ExitStack


def open_index(
    path_or_url: str | os.PathLike[str] | QdrantClient,
    model: str | os.PathLike[str] | Embedder | None,
    storage: Mapping[str, Any],
    collection: str,
    api_key: str | None,
    create: bool,
    read_only: bool,
    settings: Mapping[str, Any],
) -> OpenedIndex:
    """Open or create an index, as `M3Index.open` describes.

    Args:
        storage: "multi_vectors" and "quantization".
        settings: Keywords of `load_embedder`.
    """
    for name, value in storage.items():
        if value is not None:
            check_choice(value, name, CHOICES[name])
    check_settings(settings)
    with ExitStack() as owned, ExitStack() as opening:  # `owned` closes everything again if a step fails
        place = _open_location(path_or_url, collection, api_key, read_only, owned)
        if isinstance(place, OpenFolder):
            opening.enter_context(place.opening)
            container: Folder | Collection = place.folder(create)
        else:
            container = place
        stored = container.manifest()
        if stored is None and (read_only or not create):
            raise IndexNotFoundError(
                f"there is no index at {container.location}", advice="check the path or URL, or create an index first"
            )
        if stored is not None:
            stored.check_storage(**storage)
        embedder = _open_embedder(model, settings, stored, owned)
        if stored is not None:
            stored.check(embedder)
        multi_vectors, quantization = storage["multi_vectors"], storage["quantization"]
        manifest = stored or Manifest.of(embedder, multi_vectors, quantization, isinstance(container, Folder))
        shared = _open_engine(place, container, manifest, stored is None)
        location = MEMORY if path_or_url == MEMORY else place.location
        opened = OpenedIndex(embedder, Store(shared, read_only), location, owned.pop_all())
    _logger.info(
        "%s the index at %s with %r: %s, multi_vectors=%s, quantization=%s",
        "opened" if stored else "created",
        location,
        embedder,
        ", ".join(manifest.representations),
        manifest.multi_vectors,
        manifest.quantization,
    )
    return opened


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise InvalidInputError unless all settings are keywords of `load_embedder`."""
    for name in settings:
        if name not in EMBEDDER_SETTINGS:
            known = sorted(EMBEDDER_SETTINGS | _OTHER_ARGUMENTS)
            similar = difflib.get_close_matches(name, known)
            advice = f"did you mean {' or '.join(similar)}?" if similar else f"use one of {', '.join(known)}"
            raise InvalidInputError(f"M3Index.open has no setting {name!r}", argument=name, advice=advice)


def _open_location(
    path_or_url: str | os.PathLike[str] | QdrantClient,
    collection: str,
    api_key: str | None,
    read_only: bool,
    owned: ExitStack,
) -> OpenFolder | Collection:
    """Return the folder or collection of an index; `owned` closes it, or releases it if other indexes use it."""
    if isinstance(path_or_url, (str, os.PathLike)):
        name = check_path(path_or_url, "path_or_url")
        if name == MEMORY:
            if read_only:
                raise InvalidInputError(
                    '":memory:" is always a new index, so it can\'t be opened with read_only=True',
                    argument="read_only",
                    advice="pass the folder of an index",
                )
            # not a TemporaryDirectory, which a forked process would remove when it ends
            name = tempfile.mkdtemp(prefix="bge-index-")
            owned.callback(shutil.rmtree, name, ignore_errors=True)
        elif name.startswith(("http://", "https://")):
            from bge_integrations.index.server import connect

            return connect(name, collection, api_key, owned)
        check_not_server(path_or_url)
        return hold_folder_for_reading(name, owned) if read_only else hold_folder(name, owned)
    from bge_integrations.index.server import Collection

    return Collection(path_or_url, collection)


def check_not_server(path: str | os.PathLike[str]) -> None:
    """Refuse the address of a server without http://, which would become the name of a new folder."""
    if isinstance(path, str) and (address := _ADDRESS.fullmatch(path)) and not os.path.exists(path):
        scheme = "https" if (address["scheme"] or "").lower() == "https" else "http"
        raise InvalidInputError(
            f"{path!r} is not a folder, but looks like the address of a server",
            argument="path_or_url",
            advice=f"did you mean '{scheme}://{address['rest']}'?",
        )


def _open_engine(
    place: OpenFolder | Collection, container: Folder | Collection, manifest: Manifest, create: bool
) -> SharedEngine:
    """Return the engine of an index, which is created with this manifest if `create` is True."""
    if isinstance(place, OpenFolder) and place.engine is not None:
        return place.engine
    lock = ReadWriteLock()
    if not isinstance(container, Folder):
        from bge_integrations.index.server import QdrantEngine

        return SharedEngine(QdrantEngine(container, manifest if create else None), lock, manifest)
    try:
        from bge_integrations.index.edge import EdgeEngine
    except ImportError as error:
        advice = "an index in a folder needs Qdrant Edge: pip install 'qdrant-edge-py>=0.9,<0.10'"
        raise ImportError(advice, name=error.name) from error
    assert isinstance(place, OpenFolder)
    engine = EdgeEngine(container, manifest, create, lock)
    place.owned.callback(engine.close)
    place.engine = SharedEngine(engine, lock, manifest)
    return place.engine


def _open_embedder(
    model: str | os.PathLike[str] | Embedder | None,
    settings: Mapping[str, Any],
    manifest: Manifest | None,
    owned: ExitStack,
) -> Embedder:
    """Return the embedder of an index; `owned` closes it unless it was passed as `model`.

    Args:
        model: A model or a loaded embedder; None uses the model in the manifest.
        settings: Keywords of `load_embedder`.
        manifest: The manifest of an existing index.
        owned: Closes what is loaded here.
    """
    if isinstance(model, Embedder):
        if given := [name for name, value in settings.items() if value]:
            raise InvalidInputError(
                f"{', '.join(given)} can't be set on a loaded embedder", advice="pass these to load_embedder"
            )
        embedder = model
    else:
        if manifest is not None and model is None:
            settings = {**settings, "revision": settings.get("revision") or manifest.revision}
        name = model or (manifest.model if manifest else DEFAULT_MODEL)
        embedder = load_embedder(name, **settings)
        owned.callback(embedder.close)
        if manifest and settings.get("max_length") is None and embedder.max_length != manifest.max_length:
            manifest.check_weights(embedder)
            embedder = load_embedder(name, **{**settings, "max_length": manifest.max_length})
            owned.callback(embedder.close)
    return embedder
