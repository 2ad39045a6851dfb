"""Stores on disk that are synced with the documents: a Chroma collection or an M3Index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bge_integrations.errors import InvalidInputError, WrongModelError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

    from bge_integrations.index import M3Index

Document = TypeVar("Document")

#: A folder that contains one of these is an index of the pipelines or of Chroma.
_OURS = ("chroma.sqlite3", "langchain-m3", "llama-index-m3")


def index_folder(folder: str | Path) -> Path:
    """Return the folder as a path, after checking that the pipelines can use it.

    Raises:
        InvalidInputError: It is a file, or contains something other than an index.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file", argument="folder", advice="pass a folder for the index")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if names and not set(names) & set(_OURS):
        raise InvalidInputError(
            f"{folder} is not an index and not empty (it contains {names[0]})",
            argument="folder",
            advice="choose a new folder for the index",
        )
    return folder


def open_chroma(folder: str | Path, name: str, model: str) -> tuple[ClientAPI, Collection]:
    """Open a Chroma collection in a folder, with cosine distance; both are created if needed.

    Raises:
        InvalidInputError: The folder is a file, or contains something other than an index.
        WrongModelError: The collection contains the vectors of another model.
    """
    import chromadb

    folder = index_folder(folder)
    client = chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection(
        name,
        embedding_function=None,  # the frameworks embed the texts
        metadata={"model": model},
        configuration={"hnsw": {"space": "cosine"}},
    )
    made_by = (collection.metadata or {}).get("model")
    if made_by != model:
        raise WrongModelError(
            f"{folder} contains the vectors of {made_by}, not of {model}",
            argument="model",
            advice="use that model, or another folder",
        )
    return client, collection


@dataclass(frozen=True)
class ChromaStore(Generic[Document]):
    """A framework's documents in a Chroma collection, for `sync`.

    Attributes:
        collection: The collection.
        add: The framework's function that embeds documents and adds them.
        read: Returns the text and metadata of a document.
    """

    collection: Collection
    add: Callable[[list[Document]], object]
    read: Callable[[Document], tuple[str, Mapping[str, Any]]]

    def put(self, documents: Mapping[str, Document]) -> None:
        stored = self.collection.get(ids=list(documents), include=["documents", "metadatas"])
        rows = zip(stored["ids"], stored["documents"], stored["metadatas"], strict=True)
        unchanged = {i for i, text, metadata in rows if self._is_unchanged(documents[i], text, metadata)}
        if changed := [i for i in stored["ids"] if i not in unchanged]:
            self.collection.delete(ids=changed)
        if new := [document for i, document in documents.items() if i not in unchanged]:
            self.add(new)

    def _is_unchanged(self, document: Document, stored: str, stored_metadata: Mapping[str, Any] | None) -> bool:
        text, metadata = self.read(document)
        return text == stored and metadata.items() <= (stored_metadata or {}).items()  # LlamaIndex adds its own fields

    def ids(self) -> Iterable[str]:
        ids: list[str] = self.collection.get(include=[])["ids"]
        return ids

    def delete(self, ids: list[str]) -> None:
        self.collection.delete(ids=ids)


@dataclass(frozen=True)
class IndexStore(Generic[Document]):
    """A framework's documents in an M3Index, for `sync`.

    Attributes:
        index: The index, which encodes only new and changed documents.
        add: The framework's function that adds documents.
    """

    index: M3Index
    add: Callable[[list[Document]], object]

    def put(self, documents: Mapping[str, Document]) -> None:
        self.add(list(documents.values()))

    def ids(self) -> Iterable[str]:
        return (entry.id for entry in self.index)

    def delete(self, ids: list[str]) -> None:
        self.index.delete(ids)
