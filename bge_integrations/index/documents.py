"""Preparing the documents of an `add`: checks, chunks, and records with vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.filters import can_be_named
from bge_integrations.index.images import image_digest
from bge_integrations.index.records import NewDocument, Record, checked_metadata
from bge_integrations.index.vectors import vectors_of
from bge_integrations.validation import can_be_iterated, check_not_dict, check_text, has_words

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input
    from bge_integrations.index.engine import FieldKind
    from bge_integrations.index.vectors import Vectors
    from bge_integrations.outputs import Embeddings

#: What to do with texts that have no words.
OnEmpty = Literal["warn", "skip", "error"]
#: Maximum documents and characters that are encoded and stored together. They limit the memory that `add` needs.
_CHUNK_DOCUMENTS = 64
_CHUNK_CHARACTERS = 100_000
#: Maximum characters of a metadata string that gets an index. Longer ones are rarely used in filters.
_MAX_TAG_CHARACTERS = 256
#: Stands for a missing value in a column that is too short.
_MISSING: Any = object()


def documents_of(
    texts: Iterable[Input],
    ids: Iterable[str | None] | None,
    metadatas: Iterable[Mapping[str, Any]] | None,
    on_empty: OnEmpty,
    takes_images: bool,
    vectors: Sequence[Vectors] | None,
) -> Iterator[NewDocument]:
    """Check and return the documents of an `add`. A list is checked as a whole, an iterator as it is read.

    `vectors` are the finished vectors of the texts, which `given_vectors` has checked; None if there are none.
    """
    check_not_dict(texts)
    if isinstance(texts, (str, bytes)) or not can_be_iterated(texts):
        raise InvalidInputError(
            f"texts must be a list of texts, got one {type(texts).__name__}", argument="texts", advice="wrap it: [text]"
        )
    for name, column in (("ids", ids), ("metadatas", metadatas)):
        if column is not None and (isinstance(column, (str, Mapping)) or not can_be_iterated(column)):
            raise InvalidInputError(f"{name} must be a list with one item per text, got one {type(column).__name__}")
    documents = _read_documents(texts, ids, metadatas, on_empty == "error", takes_images)
    if vectors is not None:
        documents = (replace(document, vectors=given) for document, given in zip(documents, vectors, strict=True))
    return documents if isinstance(texts, Iterator) else iter(list(documents))


def _read_documents(
    texts: Iterable[Input],
    ids: Iterable[str | None] | None,
    metadatas: Iterable[Mapping[str, Any]] | None,
    refuse_empty: bool,
    takes_images: bool,
) -> Iterator[NewDocument]:
    columns = {"texts": texts, "ids": ids, "metadatas": metadatas}
    given = {name: column for name, column in columns.items() if column is not None}
    derived_ids: dict[str, str] = {}  # by the id used
    for i, row in enumerate(zip_longest(*given.values(), fillvalue=_MISSING)):
        values = dict(zip(given, row, strict=True))
        if too_short := [name for name, value in values.items() if value is _MISSING]:
            raise InvalidInputError(
                f"there are more {'texts' if 'texts' not in too_short else 'ids or metadatas'} than "
                f"{' and '.join(too_short)}",
                advice="pass one for each text",
            )
        text, identifier, metadata = values["texts"], values.get("ids"), values.get("metadatas")
        image = text if takes_images and isinstance(text, Mapping) and "image" in text else None
        if image is None:
            check_text(text, f"texts[{i}]")
        if refuse_empty and image is None and not has_words(text):
            raise InvalidInputError(
                f"texts[{i}] has no words: {text!r:.80}",
                argument="texts",
                advice='leave it out, or pass on_empty="skip"',
            )
        checked = checked_metadata({} if metadata is None else metadata, f"metadatas[{i}]")
        if identifier is not None:
            check_text(identifier, f"ids[{i}]")
            if not identifier:
                raise InvalidInputError(f"ids[{i}] is empty", argument="ids", advice="give every document a unique id")
        if image is None:
            document = NewDocument.of(text, checked, identifier)
        else:
            document = NewDocument.of_image(image, image_digest(image, f"texts[{i}]"), checked, identifier)
        if ids is not None:
            derived = document.derived_id
            # adding the same document twice under its derived id is not a mistake
            if document.id in derived_ids and not document.id == derived == derived_ids[document.id]:
                raise InvalidInputError(
                    f"ids[{i}] repeats {document.id!r}", argument="ids", advice="give every document a unique id"
                )
            derived_ids[document.id] = derived
        yield document


def chunks_of(documents: Iterator[NewDocument]) -> Iterator[list[NewDocument]]:
    """Yield lists of documents to encode together."""
    chunk: list[NewDocument] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text)
        if len(chunk) >= _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def records_of(documents: Sequence[NewDocument], encoded: Embeddings | None) -> Iterator[Record]:
    """Yield the documents with their vectors. `encoded` has those of the documents that had to be encoded."""
    row = 0
    for document in documents:
        if document.must_be_encoded:
            assert encoded is not None
            yield Record(document, vectors_of(encoded, row))
            row += 1
        else:
            yield Record(document, (document.vectors or {}) if document.has_vectors else {})


def field_kind(key: str, value: object) -> FieldKind | None:
    """Return the kind of index for filters on a key with such a value, or None if it can't have one."""
    if isinstance(value, list) and value:
        value = value[0]
    if key.startswith("_") or not can_be_named(key):
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "float"
    return "keyword" if isinstance(value, str) and len(value) <= _MAX_TAG_CHARACTERS else None
