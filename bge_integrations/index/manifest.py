"""The settings an index was made with, and whether an embedder fits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations.errors import IndexFormatError, InvalidInputError, WrongModelError

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

#: Increased when a release stores something that older ones would misread.
FORMAT = 1

MultiVectorStorage = Literal["float16", "float32", "recompute"]
Quantization = Literal["int8"]
#: The ways to store multi-vectors and dense vectors.
CHOICES: dict[str, tuple[str | None, ...]] = {
    "multi_vectors": ("float16", "float32", "recompute"),
    "quantization": (None, "int8"),
}


@dataclass(frozen=True)
class Manifest:
    """What the vectors of an index depend on, and how they are stored.

    Attributes:
        model, revision: The model to load, and its commit if it comes from the hub. Used to open the index again.
        weights: The digest of the weights, which identifies the model.
        pooling, instruction, max_length: How passages are encoded.
        dimension, multi_vector_dimension, vocabulary_size: Widths of the three representations.
        dtype: The dtype in which the first documents were encoded. A model in another dtype is the same model.
        multi_vectors, quantization: How vectors are stored.
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
    def read(cls, stored: object, source: str) -> Manifest:
        """Check and return the manifest read from `source`.

        Raises:
            IndexFormatError: It has a newer format, or is not a manifest.
        """
        if not isinstance(stored, Mapping) or type(stored.get("format")) is not int or stored["format"] < 1:
            raise IndexFormatError(f"{source} is not the manifest of an index; restore it, or use another place")
        if stored["format"] > FORMAT:
            raise IndexFormatError(
                f"{source} has format {stored['format']}, this release reads up to {FORMAT}; upgrade bge-integrations"
            )
        known = {field.name: field for field in fields(cls)}
        wrong = sorted(known.keys() ^ stored.keys()) or [n for n in known if not _fits(known[n], stored[n])]
        if wrong:
            raise IndexFormatError(f"{source} is damaged ({', '.join(wrong)}); restore it from a copy")
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
        """Raise WrongModelError unless the embedder's vectors can be compared with those in the index."""
        self.check_weights(embedder)
        other = Manifest.of(embedder, self.multi_vectors, self.quantization)
        for name in ("pooling", "instruction", "max_length", "dimension", "multi_vector_dimension", "vocabulary_size"):
            if getattr(other, name) != getattr(self, name):
                raise WrongModelError(
                    f"the index was made with {name}={getattr(self, name)!r}, this embedder has "
                    f"{getattr(other, name)!r}; open it with model={self.model!r} and the settings it was made with"
                )

    def check_storage(self, **asked: str | None) -> None:
        """Raise InvalidInputError if another way to store vectors is requested; None accepts any."""
        for name, value in asked.items():
            if value is not None and value != getattr(self, name):
                raise InvalidInputError(
                    f"the index was made with {name}={getattr(self, name)!r}, not {value!r}; leave {name} out, or make "
                    "a new index"
                )


def _fits(field: Field[Any], value: object) -> bool:
    if field.name in CHOICES:
        return value in CHOICES[field.name]
    return isinstance(value, {"int": int, "str": str, "str | None": str | None}[str(field.type)])
