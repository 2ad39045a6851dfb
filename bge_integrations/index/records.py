"""Documents: new, with their vectors, as stored, and as search results."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.vectors import Vectors, size_of
from bge_integrations.validation import check_text, has_words

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input

#: Engines accept only UUIDs, which are derived from the documents' ids in this namespace.
_NAMESPACE = uuid.UUID("6f0c1f3a-3c0e-5c5e-9d53-0b1d6f7a4b2e")
#: The range of integers that every engine stores exactly.
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_MAX_DEPTH = 32
#: Maximum characters of the text in a document's `repr`.
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, repr=False)
class StoredDocument:
    """A document in the index.

    Attributes:
        id: The user's id, or the id derived from text and metadata.
        text: The text as it was added.
        metadata: The metadata as it was added.
    """

    id: str
    text: str
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        return f"StoredDocument(id={self.id!r}, text={_shortened(self.text)!r}, metadata={self.metadata!r})"


@dataclass(frozen=True, repr=False)
class Hit(StoredDocument):
    """A document found by a search.

    Attributes:
        score: The score that hits are sorted by.
        scores: The individual scores by name: "dense", "sparse", "multi_vector". Only those that were computed.
    """

    score: float
    scores: dict[str, float]

    def __repr__(self) -> str:
        return f"Hit(id={self.id!r}, score={self.score:.4f}, text={_shortened(self.text)!r})"


@dataclass(frozen=True, eq=False)
class NewDocument:
    """A validated document that is being added to the index.

    Attributes:
        id, text, metadata: As in `StoredDocument`.
        image: The input that the model sees instead of the text: an image, or an image with the text; None without one.
        point: The UUID that the engine stores it under.
        text_digest, metadata_digest: Fingerprints that show whether a stored document has changed.
        vectors: Finished vectors; None if the document is still to be encoded.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    point: str
    text_digest: str
    metadata_digest: str
    image: Mapping[str, Any] | None = None
    vectors: Vectors | None = None

    @classmethod
    def of(cls, text: str, metadata: dict[str, Any], identifier: str | None = None) -> NewDocument:
        """Return a document with this id, or with one derived from text and metadata if it is None."""
        return cls._made(text, digest(text), metadata, identifier, None)

    @classmethod
    def of_image(
        cls, image: Mapping[str, Any], image_digest: str, metadata: dict[str, Any], identifier: str | None
    ) -> NewDocument:
        """Return the document of an image, or of an image with a text, whose pixels are not stored."""
        text = image.get("text")
        return cls._made(text or "", digest([text, image_digest]), metadata, identifier, image)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> NewDocument:
        """Return the document that has this payload in another engine."""
        fields = {name: payload[name] for name in ("id", "text", "metadata", "text_digest", "metadata_digest")}
        return cls(point=point_of(payload["id"]), **fields)

    @classmethod
    def _made(
        cls,
        text: str,
        text_digest: str,
        metadata: dict[str, Any],
        identifier: str | None,
        image: Mapping[str, Any] | None,
    ) -> NewDocument:
        metadata_digest = digest(metadata)
        if identifier is None:
            identifier = derived_id(text_digest, metadata_digest)
        return cls(identifier, text, metadata, point_of(identifier), text_digest, metadata_digest, image)

    @property
    def has_vectors(self) -> bool:
        """Whether the text says anything, or there is an image, so that there is something to encode."""
        return self.image is not None or has_words(self.text)

    @property
    def must_be_encoded(self) -> bool:
        return self.has_vectors and self.vectors is None

    @property
    def input(self) -> Input:
        """What the model sees."""
        return self.text if self.image is None else self.image

    @property
    def derived_id(self) -> str:
        """The id that this document gets if none is given."""
        return derived_id(self.text_digest, self.metadata_digest)

    @property
    def payload(self) -> dict[str, Any]:
        """The payload that an engine stores with the vectors."""
        return {
            "id": self.id,
            "text": self.text,
            "metadata": self.metadata,
            "text_digest": self.text_digest,
            "metadata_digest": self.metadata_digest,
        }


@dataclass(frozen=True, eq=False)
class Record:
    """A document with its vectors, as an engine stores it.

    Attributes:
        document: The document.
        vectors: Those that the index stores; none for a text without words, which no search can find then.
    """

    document: NewDocument
    vectors: Vectors

    @property
    def size(self) -> int:
        """Approximate size of vectors and text in bytes."""
        return size_of(self.vectors) + 4 * len(self.document.text)


def point_of(identifier: str) -> str:
    """Return the UUID that the document with this id is stored under."""
    return str(uuid.uuid5(_NAMESPACE, identifier))


def derived_id(text_digest: str, metadata_digest: str) -> str:
    """Return the id of a document that was added without one."""
    return str(uuid.uuid5(_NAMESPACE, f"{text_digest} {metadata_digest}"))


def digest(value: Any) -> str:
    """Return a fingerprint of a text or of JSON: 128 bits in hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def from_payload(payload: Mapping[str, Any]) -> StoredDocument:
    return StoredDocument(payload["id"], payload["text"], payload["metadata"])


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def checked_metadata(metadata: object, argument: str) -> dict[str, Any]:
    """Check `metadata` and return a copy.

    Raises:
        InvalidInputError: It contains something that JSON can't represent; the message says where.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"{argument} must be a dict, got {type(metadata).__name__}")
    copied: dict[str, Any] = _checked(metadata, argument, 0)
    return copied


def _checked(value: object, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidInputError(
            f"{where} is nested more than {_MAX_DEPTH} levels deep (or contains itself)", advice="flatten it"
        )
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        check_text(value, where)
        return str.__str__(value)  # a plain str, even for a member of an Enum
    if isinstance(value, int) and _MIN_INT <= value <= _MAX_INT:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        copied = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"{where} has the key {key!r}; keys must be str")
            check_text(key, f"a key of {where}")
            copied[key] = _checked(inner, f"{where}[{key!r}]", depth + 1)
        return copied
    if isinstance(value, list):
        return [_checked(inner, f"{where}[{i}]", depth + 1) for i, inner in enumerate(value)]
    raise InvalidInputError(
        f"{where} is {value!r:.80}, a {type(value).__name__} that JSON can't represent exactly",
        advice="use str, int (64 bits), finite float, bool, None, lists and dicts; convert a date with isoformat(), a "
        "tuple with list(), a numpy value with item()",
    )
