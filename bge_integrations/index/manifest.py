"""What an index was made with, and whether an embedder fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations.errors import IndexFormatError, InvalidInputError, WrongModelError

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

#: Raised when a release stores something that older ones would misread.
FORMAT = 1

MultiVectorStorage = Literal["float16", "float32", "recompute"]
Quantization = Literal["int8"]
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "multi_vectors": ("float16", "float32", "recompute"),
    "quantization": (None, "int8"),
}


@dataclass(frozen=True)
class Manifest:
    """What the vectors of an index depend on, and how they are stored.

    Attributes:
        model, revision: What to load, and the hub's commit where there is one. For people, and to open it again.
        weights: The digest of the weights; it decides whether a model is the same.
        pooling, instruction, max_length: As passages are encoded.
        dimension, multi_vector_dimension, vocabulary_size: Widths of the three representations.
        dtype: In which the first documents were encoded. Another one is not another model.
        multi_vectors, quantization: How they are stored.
    """

    model: str
    revision: str | None
    weights: str
    pooling: str
    instruction: str
    max_length: int
    dimension: int
    multi_vector_dimension: int
    vocabulary_size: int
    dtype: str
    multi_vectors: MultiVectorStorage
    quantization: Quantization | None
    format: int = FORMAT

    @classmethod
    def of(cls, embedder: Embedder, multi_vectors: MultiVectorStorage, quantization: Quantization | None) -> Manifest:
        settings: dict[str, Any] = dict(embedder.vector_settings("passage"))
        return cls(
            model=embedder.source,
            revision=embedder.revision,
            multi_vector_dimension=embedder.multi_vector_dimension,
            vocabulary_size=embedder.vocabulary_size,
            multi_vectors=multi_vectors,
            quantization=quantization,
            **settings,
        )

    @classmethod
    def read(cls, stored: object, place: str) -> Manifest:
        """The manifest found at `place`.

        Raises:
            IndexFormatError: It is of a newer format, or no manifest.
        """
        if not isinstance(stored, Mapping) or type(stored.get("format")) is not int or stored["format"] < 1:
            raise IndexFormatError(f"{place} is not the manifest of an index; restore it, or use another place")
        if stored["format"] > FORMAT:
            raise IndexFormatError(
                f"{place} is of format {stored['format']}, this release reads up to {FORMAT}; upgrade bge-integrations"
            )
        known = {field.name: field for field in fields(cls)}
        wrong = sorted(known.keys() ^ stored.keys()) or [n for n in known if not _fits(known[n], stored[n])]
        if wrong:
            raise IndexFormatError(f"{place} is damaged ({', '.join(wrong)}); restore it from a copy")
        return cls(**stored)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check_weights(self, embedder: Embedder) -> None:
        """Raise WrongModelError unless `embedder` has the weights that the index was made with."""
        if embedder.vector_settings("passage")["weights"] != self.weights:
            revision = f" (revision {self.revision})" if self.revision else ""
            raise WrongModelError(
                f"the index was made with {self.model}{revision}, and {embedder.source} has other weights; the vectors "
                "of two models can't be compared. Open it with its own model (leave model= out), or index the "
                "documents anew elsewhere"
            )

    def check(self, embedder: Embedder) -> None:
        """Raise WrongModelError unless `embedder` makes vectors that belong to these."""
        self.check_weights(embedder)
        other = Manifest.of(embedder, self.multi_vectors, self.quantization)
        for name in ("pooling", "instruction", "max_length", "dimension", "multi_vector_dimension", "vocabulary_size"):
            if getattr(other, name) != getattr(self, name):
                raise WrongModelError(
                    f"the index was made with {name}={getattr(self, name)!r}, this embedder has "
                    f"{getattr(other, name)!r}; open it with model={self.model!r} and no other settings"
                )

    def check_storage(self, **asked: str | None) -> None:
        """Raise InvalidInputError where another way to store was asked for; None asks for nothing."""
        for name, value in asked.items():
            if value is not None and value != getattr(self, name):
                raise InvalidInputError(
                    f"the index was made with {name}={getattr(self, name)!r}, not {value!r}; leave {name} out, or make "
                    "a new index"
                )


def _fits(field: Field[Any], value: object) -> bool:
    if field.name in _CHOICES:
        return value in _CHOICES[field.name]
    return isinstance(value, {"int": int, "str": str, "str | None": str | None}[str(field.type)])


def check_choice(name: str, value: str | None) -> None:
    """Raise InvalidInputError unless `value` is a way to store `name`."""
    if value not in _CHOICES[name]:
        raise InvalidInputError(f"{name}={value!r} is none of {', '.join(map(repr, _CHOICES[name]))}")
