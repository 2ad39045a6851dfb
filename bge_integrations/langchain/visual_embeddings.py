"""BGE's vectors of texts and images as LangChain's `Embeddings`, with the methods of its multimodal embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import AliasChoices, Field, PrivateAttr

from bge_integrations.adapter_kit import DenseView, LazyModel
from bge_integrations.adapter_kit.images import image_input, image_inputs
from bge_integrations.adapter_kit.settings import ModelName
from bge_integrations.adapter_kit.views import load_visual
from bge_integrations.errors import InvalidInputError
from bge_integrations.image_data import decode_image, is_image_uri
from bge_integrations.langchain.embeddings import BGEEmbeddings
from bge_integrations.outputs import to_lists

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input


class BGEVisualEmbeddings(BGEEmbeddings):
    """Vectors of texts, images, and images with a text, in one space, by BGE-VL or Visualized-BGE.

    It works in every vector store: a text that is the data URI of an image ("data:image/png;base64,…") is read as that
    image, in documents and in queries. Stores with `add_images`, such as LangChain's Chroma, call `embed_image`.

    Example:
        >>> from bge_integrations.langchain import BGEVisualEmbeddings
        >>> embeddings = BGEVisualEmbeddings(model="BAAI/BGE-VL-base")
        >>> vectors = embeddings.embed_images(["red.png", "blue.png"])
        >>> vector = embeddings.embed_query({"image": "red.png", "text": "the same in blue"})

    Wherever texts are expected, an input may also be a dict of "image", "text" or both, a list of LangChain's content
    blocks (texts and at most one image), or a message of them. An image is a path, bytes, a BytesIO, a PIL image, a
    uint8 array (height, width, channels) or a data URI. Unlike `BGEEmbeddings`, it does not check which model made the
    vectors in LangChain's Chroma, because a stored text says nothing about an image's vector.

    Raises:
        InvalidInputError: The model takes no images, or an input can't be used or decoded.
    """

    model: ModelName = Field(
        default="BAAI/BGE-VL-base", validation_alias=AliasChoices("model", "model_name"), min_length=1
    )
    """Hub id or checkpoint folder of a model that takes images, or the URL of a server that has one. `model_name=`
    works too."""

    _model: LazyModel[DenseView] = PrivateAttr(default_factory=lambda: LazyModel(load_visual))

    def embed_documents(self, texts: Iterable[Any]) -> list[list[float]]:
        """Return one unit vector per text, image, or image with a text."""
        return self._embed(_inputs(texts))

    def embed_query(self, text: Any) -> list[float]:
        """Return the unit vector of a query: a text, an image, or both."""
        return to_lists(self._loaded().encode([_input(text, "the query")], "query"))[0]

    def embed_images(self, uris: Iterable[Any]) -> list[list[float]]:
        """Return one unit vector per image; an image is a path, or another of the kinds named above."""
        return self._embed(image_inputs(uris))

    def embed_image(self, uris: Any) -> Any:
        """Return the vectors of a list of images, as vector stores call it, or the vector of one image."""
        return self.embed_images(uris) if _is_list(uris) else self.embed_images([uris])[0]

    async def aembed_documents(self, texts: Iterable[Any]) -> list[list[float]]:
        """Async version of `embed_documents`; does not block the event loop."""
        return await self._aembed(_inputs(texts))

    async def aembed_query(self, text: Any) -> list[float]:
        """Async version of `embed_query`; does not block the event loop."""
        dense = await self._aloaded()
        return to_lists(await dense.aencode([_input(text, "the query")], "query"))[0]

    async def aembed_images(self, uris: Iterable[Any]) -> list[list[float]]:
        """Async version of `embed_images`; does not block the event loop."""
        return await self._aembed(image_inputs(uris))

    async def aembed_image(self, uris: Any) -> Any:
        """Async version of `embed_image`; does not block the event loop."""
        return await self.aembed_images(uris) if _is_list(uris) else (await self.aembed_images([uris]))[0]

    def _embed(self, inputs: list[Input]) -> list[list[float]]:
        return to_lists(self._loaded().encode(inputs, "passage", self.show_progress))

    async def _aembed(self, inputs: list[Input]) -> list[list[float]]:
        dense = await self._aloaded()
        return await asyncio.to_thread(to_lists, await dense.aencode(inputs, "passage", self.show_progress))


def _is_list(images: object) -> bool:
    return isinstance(images, (list, tuple))


def _inputs(texts: Iterable[Any]) -> list[Input]:
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"texts must be a list of texts and images, got one {type(texts).__name__}")
    return [_input(each, f"texts[{i}]") for i, each in enumerate(texts)]


def _input(given: Any, name: str) -> Input:
    """Return a text, an image, content blocks or a message as an input of the core; `name` is for messages."""
    if isinstance(given, BaseMessage):
        return _input_of_blocks(given, name)
    if isinstance(given, list) and all(isinstance(block, (str, dict)) for block in given):
        return _input_of_blocks(HumanMessage(given), name)
    if isinstance(given, str):
        return {"image": decode_image(given, name)} if is_image_uri(given) else given
    if isinstance(given, Mapping):
        return image_input(given, name)
    return cast("Input", given)  # the core says what is wrong with it


def _input_of_blocks(message: BaseMessage, name: str) -> Input:
    texts: list[str] = []
    images: list[Any] = []
    for block in message.content_blocks:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "image" and "base64" in block:
            images.append(decode_image(block["base64"], name))
        elif block["type"] == "image" and "url" in block:
            images.append(block["url"])
        else:
            raise InvalidInputError(
                f"{name} has a content block of type {block['type']!r} that can't be embedded; pass texts and one "
                "image, as base64 or a data URI"
            )
    if len(images) > 1:
        raise InvalidInputError(f"{name} has {len(images)} images; pass one image per input")
    content = ({"text": "\n".join(texts)} if texts else {}) | ({"image": images[0]} if images else {})
    if not content:
        raise InvalidInputError(f"{name} has neither a text nor an image")
    return image_input(content, name)
