"""BGE dense embeddings as Chroma's `EmbeddingFunction`, registered when this module is imported."""

from __future__ import annotations

import json
import os
import sys
from functools import lru_cache
from inspect import signature
from typing import Any, Self

from bge_integrations.adapter_kit import LazyModel
from bge_integrations.adapter_kit.settings import checked_settings, path_as_text
from bge_integrations.core.embedder import Embedder, TextKind
from bge_integrations.core.loading import load_embedder
from bge_integrations.errors import InvalidInputError, WrongModelError
from bge_integrations.optional import needed_by

with needed_by("bge_integrations.chroma", "chromadb>=1.1"):
    from chromadb.api.models.CollectionCommon import CollectionCommon
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function


_NAME = "bge_integrations"
#: Of `Embedder.vector_settings`, those that must agree for document vectors to be comparable.
_MADE_BY = ("weights", "instruction", "pooling", "dimension")

_CONFIG = {"model_name", "made_by", *signature(load_embedder).parameters} - {"model"}


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
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA if there is one.
        settings: Other arguments of `load_embedder`.

    Raises:
        TypeError: `load_embedder` has no such argument.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] = "BAAI/bge-base-en-v1.5",
        device: str | list[str] | None = None,
        **settings: Any,
    ) -> None:
        checked = checked_settings(load_embedder, {"device": device, **settings})
        if checked["dtype"] is not None:
            checked["dtype"] = str(checked["dtype"]).removeprefix("torch.")
        self._hold({"model": path_as_text(model_name), **checked}, LazyModel(load_embedder))
        self._embedder()

    def _hold(
        self, settings: dict[str, Any], model: LazyModel[Embedder], made_by: dict[str, Any] | None = None
    ) -> None:
        self._settings = settings
        self._model = model
        self._made_by = made_by

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

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """The embedding function of a collection; its model is loaded at the first use."""
        _check_config(config)
        settings = {name: value for name, value in config.items() if name not in ("model_name", "made_by")}
        settings["model"] = config["model_name"]
        function = cls.__new__(cls)
        function._hold(settings, _kept_model(json.dumps(settings, sort_keys=True)), config.get("made_by"))
        return function

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Raise InvalidInputError unless `get_config` could have made it.

        Chroma asks this before it gives a collection another function, and `validate_config_update` only after that:
        so vectors that can't be compared with those of the collection are a WrongModelError here already.
        """
        _check_config(config)
        collection = _caller("modify")
        if collection is None:
            return
        kept = _kept(collection)
        if kept.get("name") not in (None, cls.name()):
            raise WrongModelError(
                f"the collection's vectors were made by the embedding function {kept['name']!r}; make another "
                f"collection for {cls.name()!r}, and copy the vectors if they are the same"
            )
        _check_made_by(_kept_made_by(collection, cls.name()), config.get("made_by"))

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise WrongModelError if vectors by the new configuration can't be compared with those by the old one."""
        _check_made_by(old_config.get("made_by"), new_config.get("made_by"))

    def _embed(self, texts: Documents, kind: TextKind) -> Embeddings:
        embedder = self._embedder()
        collection = _caller("_embed")
        if collection is not None:
            _check_made_by(_kept_made_by(collection, self.name()), _made_by(embedder))
        return list(embedder.encode_dense(texts, kind=kind))

    def _embedder(self) -> Embedder:
        return self._model.get(self._settings)


def _made_by(embedder: Embedder) -> dict[str, Any]:
    settings = embedder.vector_settings("passage")
    return {"model": embedder.name, **{name: settings[name] for name in _MADE_BY}}


def _kept(collection: CollectionCommon[Any]) -> dict[str, Any]:
    """What Chroma keeps of the embedding function of a collection: name and config, if it has one."""
    kept: dict[str, Any] = collection.configuration_json.get("embedding_function") or {}
    return kept


def _kept_made_by(collection: CollectionCommon[Any], name: str) -> dict[str, Any] | None:
    """What made the vectors of a collection, if it was a function of this name."""
    kept = _kept(collection)
    if kept.get("name") != name:
        return None
    _check_config(kept.get("config"))
    made_by: dict[str, Any] | None = kept["config"].get("made_by")
    return made_by


def _check_made_by(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> None:
    if theirs is None or ours is None:
        return
    different = [name for name in _MADE_BY if theirs.get(name) != ours.get(name)]
    if different:
        differences = ", ".join(f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different)
        raise WrongModelError(
            f"the collection's vectors were made otherwise, by {theirs.get('model')} ({differences}), and can't be "
            f"compared with those of {ours.get('model')}; open it with the model that made them, or make another "
            "collection for this one"
        )


def _check_config(config: object) -> None:
    if not isinstance(config, dict) or not config.get("model_name"):
        raise InvalidInputError(f"a configuration of {_NAME} is a dict with a model_name, got {config!r}")
    unknown = config.keys() - _CONFIG
    if unknown:
        raise InvalidInputError(f"a configuration of {_NAME} has settings of load_embedder, not {sorted(unknown)}")
    if not isinstance(config.get("made_by", {}), dict):
        raise InvalidInputError("made_by in the configuration must be a dict; leave it out if it is lost")


@lru_cache(maxsize=4)
def _kept_model(settings: str) -> LazyModel[Embedder]:
    """Return one model for equal settings: Chroma makes a new function from its configuration at every call."""
    return LazyModel(load_embedder)


def _caller(method: str) -> CollectionCommon[Any] | None:
    """The collection in whose `method` this call is. Chroma does not pass it on, so the callers are searched."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == method and isinstance(found := frame.f_locals.get("self"), CollectionCommon):
            return found
    return None
