"""What an index holds of a document, and what it gives back."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bge_integrations.outputs import SparseVector

#: Engines take UUIDs only: a document's is made from its id in this namespace.
_NAMESPACE = uuid.UUID("6f0c1f3a-3c0e-5c5e-9d53-0b1d6f7a4b2e")
#: Whole numbers beyond these do not survive in every engine.
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_DEEPEST = 32


@dataclass(frozen=True)
class Entry:
    """A stored document.

    Attributes:
        id: The user's id, or the one made from text and metadata.
        text: As it was added.
        metadata: As it was added.
    """

    id: str
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Hit(Entry):
    """A document that was found.

    Attributes:
        score: What the hits are ordered by.
        scores: Its parts by name, those that were computed: "dense", "sparse", "multi_vector".
    """

    score: float
    scores: dict[str, float]


@dataclass(frozen=True, eq=False)
class Record:
    """A document with its vectors, as an engine stores it.

    Attributes:
        dense: float32 (dimension,).
        sparse: Lexical weights.
        multi_vector: float32 (tokens, width), or None where these are not stored.
    """

    entry: Entry
    dense: NDArray[np.float32]
    sparse: SparseVector
    multi_vector: NDArray[np.float32] | None

    @property
    def point(self) -> str:
        return point_of(self.entry.id)

    @property
    def size(self) -> int:
        """Bytes of vectors and text, about."""
        vectors = self.dense.nbytes + self.sparse.indices.nbytes + self.sparse.values.nbytes
        multi_vector = 0 if self.multi_vector is None else self.multi_vector.nbytes
        return vectors + multi_vector + 4 * len(self.entry.text)


def point_of(identifier: str) -> str:
    """The UUID under which the document with this id is stored."""
    return str(uuid.uuid5(_NAMESPACE, identifier))


def derived_id(text: str, metadata: Mapping[str, Any]) -> str:
    """The id of a document that came without one: the same for the same text and metadata."""
    return str(uuid.uuid5(_NAMESPACE, f"{digest(text)} {digest(metadata)}"))


def digest(value: Any) -> str:
    """A fingerprint of a text or of JSON, 128 bits in hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def to_payload(entry: Entry) -> dict[str, Any]:
    """What an engine stores beside the vectors."""
    return {
        "id": entry.id,
        "text": entry.text,
        "metadata": entry.metadata,
        "text_digest": digest(entry.text),
        "metadata_digest": digest(entry.metadata),
    }


def from_payload(payload: Mapping[str, Any]) -> Entry:
    return Entry(payload["id"], payload["text"], payload["metadata"])


def checked_metadata(metadata: object, argument: str) -> dict[str, Any]:
    """A copy of `metadata`, which is what JSON can hold.

    Raises:
        InvalidInputError: It is not; the message names the place.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"{argument} must be a dict, got {type(metadata).__name__}")
    copied: dict[str, Any] = _checked(metadata, argument, 0)
    return copied


def _checked(value: object, place: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidInputError(f"{place} is nested more than {_DEEPEST} deep (or holds itself); flatten it")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        check_text(value, place)
        return str.__str__(value)  # a str alone, where it is a member of an enum
    if isinstance(value, int) and _SMALLEST <= value <= _LARGEST:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        copied = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"{place} has the key {key!r}; keys must be str")
            check_text(key, f"a key of {place}")
            copied[key] = _checked(inner, f"{place}[{key!r}]", depth + 1)
        return copied
    if isinstance(value, list):
        return [_checked(inner, f"{place}[{i}]", depth + 1) for i, inner in enumerate(value)]
    raise InvalidInputError(
        f"{place} is {value!r:.80}, a {type(value).__name__} that JSON cannot keep as it is; use str, int (64 bits), "
        "float (finite), bool, None, lists and dicts: a date's isoformat(), a tuple's list(), a numpy value's item()"
    )
