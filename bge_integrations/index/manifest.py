"""The settings that an index was made with, and checks that an embedder matches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations.errors import IndexFormatError, InvalidInputError, NotSupportedError, WrongModelError
from bge_integrations.index.codes import codec_of
from bge_integrations.index.search_arguments import NO_DEFAULTS, DefaultSettings, checked_defaults
from bge_integrations.scoring import REPRESENTATIONS, Representation
from bge_integrations.validation import check_choice

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

#: Incremented when a release stores something that older ones would misread.
FORMAT = 3
#: A code is chosen for a new index in a folder so that a token takes at most this many bytes: int8, or else binary.
_TOKEN_BYTES = 150

MultiVectorStorage = Literal["float16", "float32", "int8", "binary", "recompute"]
Quantization = Literal["int8"]
#: Ways to store multi-vectors that a server does not have.
_ONLY_IN_FILES = ("int8", "binary")
#: The ways to store multi-vectors and dense vectors.
CHOICES: dict[str, tuple[str | None, ...]] = {
    "multi_vectors": (None, "float16", "float32", "int8", "binary", "recompute"),
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
        multi_vectors, quantization: How vectors are stored; `multi_vectors` is None if the model has none.
        representations: What the model computes and the index can be searched by.
        in_files: Whether multi-vectors are in files beside the engine. The engine stores them itself on a server, and
            in folders of earlier releases.
        defaults: What searches use unless they say otherwise; the only part that can change later.
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
    multi_vectors: MultiVectorStorage | None
    quantization: Quantization | None
    representations: tuple[Representation, ...]
    in_files: bool
    defaults: DefaultSettings = field(default_factory=NO_DEFAULTS.copy)
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        embedder: Embedder,
        multi_vectors: MultiVectorStorage | None,
        quantization: Quantization | None,
        in_folder: bool,
    ) -> Manifest:
        """Return the manifest of a new index, in a folder or on a server.

        Raises:
            InvalidInputError: `multi_vectors` is given, but the embedder has none.
            NotSupportedError: A server can't store multi-vectors so.
        """
        has = {"dense": True, "sparse": embedder.has_sparse, "multi_vector": embedder.has_multi_vector}
        if multi_vectors is not None and not embedder.has_multi_vector:
            raise InvalidInputError(
                f"multi_vectors={multi_vectors!r} has no effect, because {embedder.name} has no multi-vectors",
                argument="multi_vectors",
                advice="leave it out, or use BAAI/bge-m3 (or 'pocket')",
            )
        if not in_folder:
            _check_on_server(multi_vectors)
        if multi_vectors is None and embedder.has_multi_vector:
            multi_vectors = _code_for(embedder.multi_vector_dimension) if in_folder else "float16"
        settings: dict[str, Any] = dict(embedder.vector_settings("passage"))
        return cls(
            model=embedder.source,
            revision=embedder.revision,
            multi_vector_dimension=embedder.multi_vector_dimension,
            vocabulary_size=embedder.vocabulary_size,
            multi_vectors=multi_vectors,
            quantization=quantization,
            representations=tuple(name for name in REPRESENTATIONS if has[name]),
            in_files=in_folder and multi_vectors not in (None, "recompute"),
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
        if stored["format"] == 1:  # before there were indexes of other models, and defaults
            stored = {**stored, "representations": list(REPRESENTATIONS), "defaults": {}}
        if stored["format"] < 3:
            stored = {**stored, "in_files": False}
        known = {field.name: field for field in fields(cls)}
        wrong = sorted(known.keys() ^ stored.keys()) or [n for n in known if not _fits(known[n], stored[n])]
        if not wrong and ("multi_vector" in stored["representations"]) != (stored["multi_vectors"] is not None):
            wrong = ["multi_vectors"]
        if not wrong and stored["in_files"] and stored["multi_vectors"] in (None, "recompute"):
            wrong = ["in_files"]
        if not wrong:
            held = tuple(stored["representations"])
            try:
                return cls(
                    **{
                        **stored,
                        "representations": held,
                        "defaults": checked_defaults(held, **stored["defaults"]),
                        "format": FORMAT,
                    }
                )
            except (InvalidInputError, TypeError):
                wrong = ["defaults"]
        raise IndexFormatError(f"{source} is damaged ({', '.join(wrong)})", advice="restore it from a copy")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "representations": list(self.representations)}

    def with_defaults(self, settings: DefaultSettings) -> Manifest:
        """Return the manifest with these defaults changed; None removes a default."""
        merged: DefaultSettings = {**self.defaults, **settings}
        return replace(self, defaults=checked_defaults(self.representations, **merged))

    @property
    def stored(self) -> tuple[Representation, ...]:
        """The representations whose vectors are stored."""
        return tuple(r for r in self.representations if r != "multi_vector" or self.multi_vectors != "recompute")

    def for_copy(self, multi_vectors: MultiVectorStorage | None, in_folder: bool) -> Manifest:
        """Return the manifest of a copy with the same vectors, in a folder or on a server.

        Args:
            multi_vectors: How the copy stores multi-vectors. None keeps this index's way, if the copy can store them
                so, and otherwise takes "float16".
            in_folder: Whether the copy is in a folder.

        Raises:
            InvalidInputError: This index stores no multi-vectors, but the copy is to store some.
            NotSupportedError: A server can't store multi-vectors so.
        """
        check_choice(multi_vectors, "multi_vectors", CHOICES["multi_vectors"])
        available = self.representations if multi_vectors == "recompute" else self.stored
        if multi_vectors not in (None, self.multi_vectors) and "multi_vector" not in available:
            raise InvalidInputError(
                f"the index stores no multi-vectors that could be copied as {multi_vectors!r}",
                argument="multi_vectors",
                advice="leave it out, or add the documents to a new index",
            )
        if not in_folder:
            _check_on_server(multi_vectors)
        chosen = multi_vectors or self.multi_vectors
        if not in_folder and chosen in _ONLY_IN_FILES:
            chosen = "float16"
        return replace(self, multi_vectors=chosen, in_files=in_folder and chosen not in (None, "recompute"))

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
        other = Manifest.of(embedder, None, self.quantization, in_folder=self.in_files)
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


def _check_on_server(multi_vectors: str | None) -> None:
    """Raise NotSupportedError if a server can't store multi-vectors so."""
    if multi_vectors in _ONLY_IN_FILES:
        raise NotSupportedError(
            f"multi_vectors={multi_vectors!r} is not supported on a server",
            argument="multi_vectors",
            advice="use 'float16' or 'recompute', or an index in a folder",
        )


def _code_for(width: int) -> MultiVectorStorage:
    """Return the default storage of multi-vectors of this width in a folder."""
    return "int8" if codec_of("int8", width).row_bytes <= _TOKEN_BYTES else "binary"


def _fits(field: Field[Any], value: object) -> bool:
    if field.name in CHOICES:
        return value in CHOICES[field.name]
    if field.name == "representations":
        return (
            isinstance(value, list) and value[:1] == ["dense"] and value == [r for r in REPRESENTATIONS if r in value]
        )
    if field.name == "defaults":
        return isinstance(value, dict)
    return isinstance(value, {"bool": bool, "int": int, "str": str, "str | None": str | None}[str(field.type)])
