"""The settings that an index was made with, and checks that an embedder matches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations.errors import IndexFormatError, InvalidInputError, WrongModelError

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

#: Incremented when a release stores something that older ones would misread.
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
    """The settings that an index's vectors depend on, and how they are stored.

    Attributes:
        model, revision: The model to load, and its commit if it comes from the hub. Used to open the index again.
        weights: The digest of the weights, which identifies the model.
        pooling, instruction, max_length: How passages are encoded.
        dimension, multi_vector_dimension, vocabulary_size: Widths of the three representations.
        dtype: The dtype that the first documents were encoded in. Other dtypes count as the same model.
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
            IndexFormatError: `stored` has a newer format, or is not a manifest.
        """
        if not isinstance(stored, Mapping) or type(stored.get("format")) is not int or stored["format"] < 1:
            raise IndexFormatError(
                f"{source} is not the manifest of an index", advice="restore it, or use another folder or collection"
            )
        if stored["format"] > FORMAT:
            raise IndexFormatError(
                f"{source} has format {stored['format']}, but this release reads only up to {FORMAT}",
                advice="upgrade bge-integrations",
            )
        known = {field.name: field for field in fields(cls)}
        wrong = sorted(known.keys() ^ stored.keys()) or [n for n in known if not _fits(known[n], stored[n])]
        if wrong:
            raise IndexFormatError(f"{source} is damaged ({', '.join(wrong)})", advice="restore it from a copy")
        return cls(**stored)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check_weights(self, embedder: Embedder) -> None:
        """Raise WrongModelError unless `embedder` has the weights that the index was made with."""
        if embedder.vector_settings("passage")["weights"] != self.weights:
            revision = f" (revision {self.revision})" if self.revision else ""
            raise WrongModelError(
                f"the index was made with {self.model}{revision}, and {embedder.source} has different weights, so "
                "their vectors can't be compared",
                advice="open it with its own model (leave model= out), or add the documents to a new index",
            )

    def check(self, embedder: Embedder) -> None:
        """Raise WrongModelError unless the embedder's vectors can be compared with those in the index."""
        self.check_weights(embedder)
        other = Manifest.of(embedder, self.multi_vectors, self.quantization)
        for name in ("pooling", "instruction", "max_length", "dimension", "multi_vector_dimension", "vocabulary_size"):
            if getattr(other, name) != getattr(self, name):
                raise WrongModelError(
                    f"the index was made with {name}={getattr(self, name)!r}, but this embedder has "
                    f"{getattr(other, name)!r}",
                    advice=f"open it with model={self.model!r} and the settings that it was made with",
                )

    def check_storage(self, **requested: str | None) -> None:
        """Raise InvalidInputError if the index stores vectors differently than requested; None accepts any."""
        for name, value in requested.items():
            if value is not None and value != getattr(self, name):
                raise InvalidInputError(
                    f"the index was made with {name}={getattr(self, name)!r}, not {value!r}",
                    argument=name,
                    advice=f"leave {name} out, or create a new index",
                )


def _fits(field: Field[Any], value: object) -> bool:
    if field.name in CHOICES:
        return value in CHOICES[field.name]
    return isinstance(value, {"int": int, "str": str, "str | None": str | None}[str(field.type)])
