"""The documents of an `add`: checked, a chunk at a time, and as records with their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.filters import can_be_named
from bge_integrations.index.records import Entry, Record, checked_metadata, derived_id
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from bge_integrations.index.engine import FieldKind
    from bge_integrations.outputs import Embeddings

#: Documents and characters that are encoded and then stored at a time, which bounds the memory of an `add`.
_CHUNK_DOCUMENTS = 64
_CHUNK_CHARACTERS = 100_000
#: Longer strings in the metadata are no tags to filter by.
_LONGEST_TAG = 256
#: Stands for what a column that is too short lacks.
_LACKING: Any = object()


def entries_of(
    texts: Iterable[str], ids: Iterable[str | None] | None, metadatas: Iterable[Mapping[str, Any]] | None
) -> Iterator[Entry]:
    """The checked documents of an `add`: all checked before the first is given, unless `texts` is an iterator."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"texts must be a list of texts, got one {type(texts).__name__}; wrap it: [text]")
    for name, column in (("ids", ids), ("metadatas", metadatas)):
        if column is not None and (isinstance(column, (str, Mapping)) or not isinstance(column, Iterable)):
            raise InvalidInputError(f"{name} must be a list with one for each text, got one {type(column).__name__}")
    entries = _read_entries(texts, ids, metadatas)
    return entries if isinstance(texts, Iterator) else iter(list(entries))


def _read_entries(
    texts: Iterable[str], ids: Iterable[str | None] | None, metadatas: Iterable[Mapping[str, Any]] | None
) -> Iterator[Entry]:
    columns = {"texts": texts, "ids": ids, "metadatas": metadatas}
    given = {name: column for name, column in columns.items() if column is not None}
    made_of: dict[str, str] = {}
    for i, row in enumerate(zip_longest(*given.values(), fillvalue=_LACKING)):
        values = dict(zip(given, row, strict=True))
        if lacking := [name for name, value in values.items() if value is _LACKING]:
            raise InvalidInputError(
                f"there are more {'texts' if 'texts' not in lacking else 'ids or metadatas'} than "
                f"{' and '.join(lacking)}; give one for each text"
            )
        text, identifier, metadata = values["texts"], values.get("ids"), values.get("metadatas")
        check_text(text, f"texts[{i}]")
        checked = checked_metadata({} if metadata is None else metadata, f"metadatas[{i}]")
        made = derived_id(text, checked)
        if ids is None:
            yield Entry(made, text, checked)
            continue
        identifier = made if identifier is None else identifier
        check_text(identifier, f"ids[{i}]")
        if not identifier or (identifier in made_of and not identifier == made == made_of[identifier]):
            raise InvalidInputError(
                f"ids[{i}] is {'empty' if not identifier else repr(identifier) + ' again'}; "
                "give every document an id of its own"
            )
        made_of[identifier] = made  # the same document twice, each time without an id, is no mistake
        yield Entry(identifier, text, checked)


def chunks_of(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """What is encoded at a time."""
    chunk: list[Entry] = []
    characters = 0
    for entry in entries:
        chunk.append(entry)
        characters += len(entry.text)
        if len(chunk) >= _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def records_of(entries: Sequence[Entry], encoded: Embeddings | None) -> Iterator[Record]:
    if encoded is None:
        return
    assert encoded.dense is not None
    assert encoded.sparse is not None
    for i, entry in enumerate(entries):
        multi_vector = None if encoded.multi_vector is None else encoded.multi_vector[i]
        yield Record(entry, encoded.dense[i], encoded.sparse[i], multi_vector)


def batches_of(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Records of about `size` bytes at a time, one at least."""
    batch: list[Record] = []
    total = 0
    for record in records:
        if batch and total + record.size > size:
            yield batch
            batch, total = [], 0
        batch.append(record)
        total += record.size
    if batch:
        yield batch


def field_kind(key: str, value: object) -> FieldKind | None:
    """As what to index a key with such a value; None where it is not one to filter by."""
    if isinstance(value, list) and value:
        value = value[0]
    if key.startswith("_") or not can_be_named(key):
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "float"
    return "keyword" if isinstance(value, str) and len(value) <= _LONGEST_TAG else None
