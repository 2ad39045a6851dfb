"""Search over pictures and texts in LangChain: both are in one Chroma collection, and either can be the query."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from bge_integrations.pipelines.command import interrupted, missing

try:
    from langchain_chroma import Chroma
    from langchain_core.documents import Document

    from bge_integrations.langchain import BGEVisualEmbeddings
except ImportError as error:
    raise missing(error, __name__) from error
except KeyboardInterrupt:
    raise interrupted(__name__) from None

from bge_integrations.documents.pictures import is_picture
from bge_integrations.documents.sync import sync
from bge_integrations.errors import InvalidInputError
from bge_integrations.pipelines.passages import check_ids
from bge_integrations.pipelines.stores import ChromaStore, open_chroma

_NAME = "langchain-pictures"


def read_pictures(folder: str | Path) -> list[Document]:
    """Return the pictures in a folder and its subfolders as documents.

    A document's text is the picture as a data URI, which `BGEVisualEmbeddings` embeds as a picture and a chat model can
    be shown. `metadata["source"]`, which is also the id, is its path in the folder.

    Raises:
        InvalidInputError: There is no such folder, or no picture in it.
    """
    folder = Path(folder).expanduser()
    files = sorted(file for file in folder.rglob("*") if is_picture(file) and file.is_file())
    if not files:
        raise InvalidInputError(f"there is no picture in {folder}", argument="folder", advice="pass another folder")
    names = [file.relative_to(folder).as_posix() for file in files]
    return [
        Document(picture_uri(file), id=name, metadata={"source": name}) for file, name in zip(files, names, strict=True)
    ]


def picture_uri(file: str | Path) -> str:
    """Return a picture as a data URI: "data:image/png;base64,…"."""
    kind, _ = mimetypes.guess_type(str(file))
    return f"data:{kind};base64,{base64.b64encode(Path(file).read_bytes()).decode()}"


def picture_store(documents: Sequence[Document], folder: str | Path, *, model: str = "BAAI/BGE-VL-base") -> Chroma:
    """Return a LangChain vector store of pictures and texts in one vector space.

    The folder is synced with the documents: only new and changed ones are encoded, and those that are gone are
    deleted.

    Args:
        documents: Pictures from `read_pictures`, texts, or both, with unique ids.
        folder: Folder for Chroma's files; created if needed.
        model: A model that takes images: hub id or folder.

    Raises:
        InvalidInputError: There are no documents, their ids are missing or not unique, or the model takes no images.
        WrongModelError: The folder contains the vectors of another model.
    """
    ids = check_ids([document.id for document in documents])
    client, collection = open_chroma(folder, _NAME, model)
    store = Chroma(_NAME, client=client, embedding_function=BGEVisualEmbeddings(model=model))
    stored = ChromaStore(collection, store.add_documents, lambda document: (document.page_content, document.metadata))
    sync(stored, zip(ids, documents, strict=True))
    return store
