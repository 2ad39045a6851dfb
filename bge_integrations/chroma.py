"""BGE dense embeddings as Chroma's `EmbeddingFunction`, registered when this module is imported."""

from __future__ import annotations

import sys
from inspect import signature
from typing import TYPE_CHECKING, Any

try:
    from chromadb.api.models.CollectionCommon import CollectionCommon
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function
except ImportError as error:
    raise ImportError("bge_integrations.chroma needs Chroma: pip install 'bge-integrations[chroma]'") from error

from bge_integrations.core.embedder import Embedder, TextKind, load_embedder
from bge_integrations.core.handle import Handle
from bge_integrations.errors import InvalidInputError, WrongModelError

if TYPE_CHECKING:
    from bge_integrations.catalog import Family, Pooling

_NAME = "bge_integrations"
#: A collection calls its embedding function through no more frames than this.
_NEAR = 6
#: Of `Embedder.vector_settings`, those without which document vectors can't be compared.
_MADE_BY = ("model", "instruction", "pooling", "dimension")


@register_embedding_function
class BGEEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]  # chromadb is not typed
    """Dense vectors of any BGE embedding model, with the right instruction, pooling and length.

    Documents and queries are embedded as the model was trained: query texts get the query instruction in front.
    All instances of one model share its weights, and concurrent calls are merged into batches.

    Example:
        >>> import chromadb
        >>> from bge_integrations.chroma import BGEEmbeddingFunction
        >>> collection = chromadb.PersistentClient("db").get_or_create_collection("documents",
        ...     embedding_function=BGEEmbeddingFunction(model_name="BAAI/bge-m3"))

    The model is loaded when the object is made, so that a wrong name fails there. Chroma keeps the settings with the
    collection, never weights or tokens; a collection that is opened later without an embedding function makes one from
    them, and loads the model when it is first needed. Chroma tells embedding functions apart by their name only, so
    this one checks for itself: to add to a collection, or query it, with another model than made its vectors is a
    WrongModelError.

    Args:
        model_name: Hub id, checkpoint folder, or "pocket" (the small bundled demonstration model).
        device: "cpu", "cuda", "cuda:1"; None takes CUDA where there is one.

    The rest is as in `load_embedder`.
    """

    def __init__(
        self,
        model_name: str = "BAAI/bge-base-en-v1.5",
        device: str | None = None,
        *,
        dtype: str | None = None,
        max_length: int | None = None,
        query_instruction: str | None = None,
        passage_instruction: str | None = None,
        family: Family | None = None,
        pooling: Pooling | None = None,
        task: str | None = None,
        truncate_dim: int | None = None,
        revision: str | None = None,
        cache_folder: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        self._hold(
            {
                "model": model_name,
                "device": device,
                "dtype": dtype,
                "max_length": max_length,
                "query_instruction": query_instruction,
                "passage_instruction": passage_instruction,
                "family": family,
                "pooling": pooling,
                "task": task,
                "truncate_dim": truncate_dim,
                "revision": revision,
                "cache_folder": cache_folder,
                "local_files_only": local_files_only,
            }
        )
        self._embedder()

    def _hold(self, settings: dict[str, Any], made_by: dict[str, Any] | None = None) -> None:
        self._settings = settings
        self._made_by = made_by
        self._handle = Handle(load_embedder)

    def __call__(self, input: Documents) -> Embeddings:
        """float32 unit vectors of documents, one per text."""
        return self._embed(input, "passage")

    def embed_query(self, input: Documents) -> Embeddings:
        """float32 unit vectors of queries, the query instruction put in front of each."""
        return self._embed(input, "query")

    @staticmethod
    def name() -> str:
        return _NAME

    def default_space(self) -> Space:
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """The settings, and what document vectors depend on; JSON."""
        settings = {name: value for name, value in self._settings.items() if name != "model"}
        made_by = self._made_by or _made_by(self._embedder())
        return {"model_name": self._settings["model"], **settings, "made_by": made_by}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> BGEEmbeddingFunction:
        """The embedding function of a collection; its model is loaded at the first use."""
        BGEEmbeddingFunction.validate_config(config)
        settings = {name: value for name, value in config.items() if name not in ("model_name", "made_by")}
        function = BGEEmbeddingFunction.__new__(BGEEmbeddingFunction)
        function._hold({"model": config["model_name"], **settings}, config.get("made_by"))
        return function

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raise InvalidInputError unless `get_config` could have made it."""
        unknown = set(config) - {"model_name", "made_by", *signature(load_embedder).parameters}
        if unknown or not config.get("model_name"):
            raise InvalidInputError(
                f"a configuration of {_NAME} has a model_name and settings of load_embedder; "
                + (f"this one has {', '.join(sorted(unknown))}" if unknown else "this one has no model_name")
            )

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise WrongModelError if vectors by the new configuration can't be compared with those by the old one."""
        _check_made_by(old_config.get("made_by"), new_config.get("made_by"))

    def _embed(self, texts: Documents, kind: TextKind) -> Embeddings:
        embedder = self._embedder()
        collection = _calling_collection()
        if collection is not None:
            persisted = collection.configuration_json.get("embedding_function") or {}
            if persisted.get("name") == _NAME:
                _check_made_by(persisted["config"].get("made_by"), _made_by(embedder))
        rows = embedder.encode(texts, kind=kind).dense
        assert rows is not None
        return list(rows)

    def _embedder(self) -> Embedder:
        return self._handle.get(self._settings)


def _made_by(embedder: Embedder) -> dict[str, Any]:
    settings = embedder.vector_settings("passage")
    return {name: settings[name] for name in _MADE_BY}


def _check_made_by(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> None:
    if theirs is None or ours is None:
        return
    different = [name for name in _MADE_BY if theirs.get(name) != ours.get(name)]
    if different:
        differences = ", ".join(f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different)
        raise WrongModelError(
            f"the collection's vectors were made otherwise ({differences}), and can't be compared with new ones; open "
            "it with the model that made them, or make another collection for this one"
        )


def _calling_collection() -> CollectionCommon[Any] | None:
    """The collection that this call is for. Chroma does not pass it on, so it is looked up among the callers."""
    frame = sys._getframe(2)
    for _ in range(_NEAR):
        caller = frame.f_locals.get("self")
        if isinstance(caller, CollectionCommon):
            return caller
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
