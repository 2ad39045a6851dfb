"""BGE embeddings of texts and images as Chroma's `EmbeddingFunction`, registered when this module is imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from inspect import signature
from typing import Any, Self

import numpy as np

from bge_integrations.adapter_kit import LazyModel
from bge_integrations.adapter_kit.settings import checked_settings, path_as_text
from bge_integrations.core.embedder import Embedder, TextKind
from bge_integrations.core.loading import load_embedder
from bge_integrations.errors import InvalidInputError, WrongModelError
from bge_integrations.optional import import_library, needed_by
from bge_integrations.validation import check_takes_images

with needed_by("bge_integrations.chroma", "chromadb>=1.1"):
    from chromadb.api.models.CollectionCommon import CollectionCommon
    from chromadb.api.types import DataLoader, Documents, Embeddable, EmbeddingFunction, Embeddings, Image, Space
    from chromadb.utils.embedding_functions import register_embedding_function


_NAME = "bge_integrations"
#: The `Embedder.vector_settings` that must be equal for document vectors to be comparable.
_MADE_BY = ("weights", "instruction", "pooling", "dimension")

#: The keys of a stored configuration. The key of a server is not stored: it comes from the environment then.
_CONFIG = {"model_name", "made_by", *signature(load_embedder).parameters} - {"model", "api_key"}


@register_embedding_function
class BGEEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]  # chromadb is not typed
    """Dense vectors of any BGE embedding model, with the right instruction, pooling and length.

    Documents and queries are embedded as the model was trained: queries are prefixed with the query instruction.
    All instances of one model share its weights, and concurrent calls are merged into batches.

    Example:
        >>> import chromadb
        >>> from bge_integrations.chroma import BGEEmbeddingFunction
        >>> collection = chromadb.PersistentClient("db").get_or_create_collection("documents",
        ...     embedding_function=BGEEmbeddingFunction(model_name="BAAI/bge-m3"))

    The model is loaded when the object is created, so a wrong name fails right away. Chroma stores the settings with
    the collection, never weights or access tokens. If a collection is later opened without an embedding function,
    Chroma creates one from these settings, and the model is loaded on first use. Chroma compares embedding functions by
    name only, so this one also checks the model: adding to a collection or querying it with a model other than the one
    that made its vectors raises WrongModelError.

    Args:
        model_name: Hub id, checkpoint folder, the URL of a server, or "pocket" (the small bundled demonstration model).
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None uses CUDA if available.
        settings: Other arguments of `load_embedder`.

    Raises:
        TypeError: A setting is not an argument of `load_embedder`.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] = "BAAI/bge-base-en-v1.5",
        device: str | list[str] | None = None,
        **settings: Any,
    ) -> None:
        checked = checked_settings(load_embedder, {"device": device, **settings}, model="model_name")
        if checked["dtype"] is not None:
            checked["dtype"] = str(checked["dtype"]).removeprefix("torch.")
        self._set_up({"model": path_as_text(model_name), **checked}, LazyModel(load_embedder))
        self._embedder()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_settings": {**self._settings, "api_key": None}}  # a pickle contains no key

    def _set_up(
        self, settings: dict[str, Any], model: LazyModel[Embedder], made_by: dict[str, Any] | None = None
    ) -> None:
        self._settings = settings
        self._model = model
        self._made_by = made_by

    def __call__(self, input: Documents) -> Embeddings:
        """Return one float32 unit vector per document."""
        return self._embed(input, "passage")

    def embed_query(self, input: Documents) -> Embeddings:
        """Return one float32 unit vector per query, embedded with the query instruction."""
        return self._embed(input, "query")

    @staticmethod
    def name() -> str:
        return _NAME

    def default_space(self) -> Space:
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """Return the settings, and what document vectors depend on, as JSON-compatible values."""
        settings = {name: value for name, value in self._settings.items() if name not in ("model", "api_key")}
        made_by = self._made_by or _made_by(self._embedder())
        return {"model_name": self._settings["model"], **settings, "made_by": made_by}

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """Return the embedding function of a collection. Its model is loaded on first use."""
        _check_config(config)
        settings = {name: value for name, value in config.items() if name not in ("model_name", "made_by")}
        settings["model"] = config["model_name"]
        function = cls.__new__(cls)
        function._set_up(settings, _cached_model(json.dumps(settings, sort_keys=True)), config.get("made_by"))
        return function

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Raise InvalidInputError unless `get_config` could have returned this configuration.

        Chroma calls this before it replaces a collection's embedding function, and `validate_config_update` only
        afterwards. So a function whose vectors can't be compared with the collection's raises WrongModelError here.
        """
        _check_config(config)
        collection = _caller("modify")
        if collection is None:
            return
        stored = _stored_function(collection)
        if stored.get("name") not in (None, cls.name()):
            raise WrongModelError(
                f"the collection's vectors were made by the embedding function {stored['name']!r}",
                advice=f"create another collection for {cls.name()!r}, and copy the vectors if they are the same",
            )
        _check_made_by(_stored_made_by(collection, cls.name()), config.get("made_by"))

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise WrongModelError if vectors of the new configuration can't be compared with vectors of the old one."""
        _check_made_by(old_config.get("made_by"), new_config.get("made_by"))

    def _embed(self, inputs: Any, kind: TextKind) -> Embeddings:
        embedder = self._embedder()
        collection = _caller("_embed")
        if collection is not None:
            _check_made_by(_stored_made_by(collection, self.name()), _made_by(embedder))
        return list(embedder.encode_dense(inputs, kind=kind))

    def _embedder(self) -> Embedder:
        return self._model.get(self._settings)


@register_embedding_function
class BGEVisualEmbeddingFunction(BGEEmbeddingFunction):
    """Vectors of texts and images in one space, by BGE-VL or Visualized-BGE.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (64, 64), "red").save("red.png")
        >>> import chromadb
        >>> from bge_integrations.chroma import BGEImageLoader, BGEVisualEmbeddingFunction
        >>> function = BGEVisualEmbeddingFunction(model_name="BAAI/BGE-VL-base")
        >>> collection = chromadb.PersistentClient("db").get_or_create_collection("pictures",
        ...     embedding_function=function, data_loader=BGEImageLoader())
        >>> collection.add(ids=["1"], uris=["red.png"])
        >>> found = collection.query(query_texts=["a red picture"], n_results=1)

    Documents, images and URIs can be added to one collection and queried by each of them. An image is an array (height,
    width) or (height, width, channels) of whole numbers from 0 to 255. Everything else is as in
    `BGEEmbeddingFunction`.

    Args:
        model_name: Hub id or checkpoint folder of a model that takes images, or the URL of a server that has one.
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None uses CUDA if available.
        settings: Other arguments of `load_embedder`.

    Raises:
        InvalidInputError: The model takes no images.
        TypeError: A setting is not an argument of `load_embedder`.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] = "BAAI/BGE-VL-base",
        device: str | list[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model_name, device, **settings)

    def __call__(self, input: Embeddable) -> Embeddings:
        """Return one float32 unit vector per document or image."""
        return super().__call__(input)

    @staticmethod
    def name() -> str:
        return f"{_NAME}_visual"

    def _embed(self, inputs: Embeddable, kind: TextKind) -> Embeddings:
        return super()._embed([{"image": _bytes_of(i)} if isinstance(i, np.ndarray) else i for i in inputs], kind)

    def _embedder(self) -> Embedder:
        return check_takes_images(super()._embedder())


class BGEImageLoader(DataLoader[list[Image | None]]):  # type: ignore[misc]
    """Loads images from paths, for collections with `uris`.

    Like Chroma's `ImageLoader`, but images with a palette, with one bit per pixel, or in CMYK become RGB. Chroma's
    loader returns their raw values, such as the numbers of colours in the palette.
    """

    def __call__(self, uris: Sequence[str | None]) -> list[Image | None]:
        """Return one uint8 array (height, width[, channels]) per path, None for None.

        Raises:
            InvalidInputError: A file is missing, or is not an image; the message names it.
        """
        with ThreadPoolExecutor() as pool:
            return list(pool.map(_load_image, range(len(uris)), uris))


def _bytes_of(image: Image) -> Image:
    """Return an array of whole numbers from 0 to 255 as uint8, and other arrays unchanged."""
    if image.dtype.kind in "iu" and image.size and image.min() >= 0 and image.max() <= 255:
        return image.astype(np.uint8)
    return image


def _load_image(i: int, uri: str | None) -> Image | None:
    if uri is None:
        return None
    pillow = import_library("PIL.Image", "vision", "BGEImageLoader")
    try:
        with pillow.open(uri) as image:
            return np.asarray(image if image.mode in ("RGB", "RGBA", "L") else image.convert("RGB"))
    except Exception as error:  # decoders of damaged files raise almost anything
        raise InvalidInputError(
            f"uris[{i}]: the image {uri!r} can't be read ({type(error).__name__}: {error})",
            advice="check the path, or leave it out",
        ) from error


def _made_by(embedder: Embedder) -> dict[str, Any]:
    settings = embedder.vector_settings("passage")
    return {"model": embedder.name, **{name: settings[name] for name in _MADE_BY}}


def _stored_function(collection: CollectionCommon[Any]) -> dict[str, Any]:
    """Return the name and config that Chroma stores for a collection's embedding function; empty if it has none."""
    stored: dict[str, Any] = collection.configuration_json.get("embedding_function") or {}
    return stored


def _stored_made_by(collection: CollectionCommon[Any], name: str) -> dict[str, Any] | None:
    """Return what made a collection's vectors; None if its embedding function has another name."""
    stored = _stored_function(collection)
    if stored.get("name") != name:
        return None
    _check_config(stored.get("config"))
    made_by: dict[str, Any] | None = stored["config"].get("made_by")
    return made_by


def _check_made_by(stored: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
    if stored is None or new is None:
        return
    different = [name for name in _MADE_BY if stored.get(name) != new.get(name)]
    if different:
        differences = ", ".join(f"{name} {stored.get(name)!r} there, {new.get(name)!r} here" for name in different)
        raise WrongModelError(
            f"the collection's vectors were made by {stored.get('model')} and can't be compared with vectors of "
            f"{new.get('model')} ({differences})",
            advice="open it with the model and settings that made them, or create another collection",
        )


def _check_config(config: object) -> None:
    if not isinstance(config, dict) or not config.get("model_name"):
        raise InvalidInputError(f"a configuration of {_NAME} must be a dict with a model_name, got {config!r}")
    unknown = config.keys() - _CONFIG
    if unknown:
        raise InvalidInputError(
            f"the configuration of {_NAME} has unknown settings {sorted(unknown)}",
            advice="use arguments of load_embedder",
        )
    if not isinstance(config.get("made_by", {}), dict):
        raise InvalidInputError("made_by in the configuration must be a dict", advice="leave it out if it is lost")


@lru_cache(maxsize=4)
def _cached_model(settings: str) -> LazyModel[Embedder]:
    """Return the same model for equal settings: Chroma creates a new function from its configuration on every call."""
    return LazyModel(load_embedder)


def _caller(method: str) -> CollectionCommon[Any] | None:
    """Return the collection whose `method` is on the call stack. Chroma does not pass it to embedding functions."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == method and isinstance(collection := frame.f_locals.get("self"), CollectionCommon):
            return collection
    return None
