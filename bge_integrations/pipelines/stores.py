"""What is kept on disk between runs, and how it is brought up to date: a Chroma collection, an M3Index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError, WrongModelError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

    from bge_integrations.index import M3Index

#: What makes a folder one of the pipelines' or of Chroma's.
_OURS = ("chroma.sqlite3", "langchain-m3", "llama-index-m3")
#: What is stored of a passage: its text and metadata.
Stored = tuple[str, Mapping[str, Any]]


def index_folder(folder: str | Path) -> Path:
    """The folder, for the pipelines to write to.

    Raises:
        InvalidInputError: It is a file, or holds something else.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file; name a folder for the index")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if names and not set(names) & set(_OURS):
        raise InvalidInputError(
            f"{folder} is not empty and no index of a pipeline (it holds {names[0]}); name a new folder for the index"
        )
    return folder


def open_chroma(folder: str | Path, name: str, model: str) -> tuple[ClientAPI, Collection]:
    """Chroma in a folder, and the collection of this name, made where there is none; it compares by cosine.

    Raises:
        InvalidInputError: The folder is a file, or holds something else.
        WrongModelError: The collection holds the vectors of another model.
    """
    import chromadb

    folder = index_folder(folder)
    client = chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection(
        name,
        embedding_function=None,  # the frameworks embed
        metadata={"model": model},
        configuration={"hnsw": {"space": "cosine"}},
    )
    made_by = (collection.metadata or {}).get("model")
    if made_by != model:
        raise WrongModelError(
            f"{folder} holds the vectors of {made_by}, not of {model}; use that model, or another folder"
        )
    return client, collection


def delete_outdated(collection: Collection, passages: Mapping[str, Stored]) -> list[str]:
    """Delete what is not among the passages, or was changed; the ids of passages that are then missing.

    What is there as it should be stays, and costs no model run.
    """
    there = collection.get(include=["documents", "metadatas"])
    rows = zip(there["ids"], there["documents"], there["metadatas"], strict=True)
    kept = {i for i, text, metadata in rows if i in passages and _is(passages[i], text, metadata)}
    if gone := [i for i in there["ids"] if i not in kept]:
        collection.delete(ids=gone)
    return [i for i in passages if i not in kept]


def _is(passage: Stored, text: str, metadata: Mapping[str, Any] | None) -> bool:
    """Whether this is stored; LlamaIndex stores more metadata than the passage has."""
    return passage[0] == text and passage[1].items() <= (metadata or {}).items()


def delete_others(index: M3Index, ids: list[str]) -> None:
    """Delete all passages but these."""
    kept = set(ids)
    if gone := [entry.id for entry in index if entry.id not in kept]:
        index.delete(gone)
