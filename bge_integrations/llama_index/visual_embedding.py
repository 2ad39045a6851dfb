"""BGE's vectors of texts and images as LlamaIndex's `MultiModalEmbedding`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
from llama_index.core.schema import BaseNode, ImageNode, ImageType, MetadataMode, Node
from pydantic import AliasChoices

from bge_integrations.adapter_kit import DenseView, LazyModel
from bge_integrations.adapter_kit.images import image_inputs
from bge_integrations.adapter_kit.settings import ModelName
from bge_integrations.adapter_kit.views import load_visual
from bge_integrations.image_data import decode_image
from bge_integrations.llama_index.embedding import BGEEmbedding
from bge_integrations.outputs import to_lists

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input


class BGEVisualEmbedding(BGEEmbedding, MultiModalEmbedding):
    """Vectors of texts, images, and images with a text, in one space, by BGE-VL or Visualized-BGE.

    Use it as `embed_model` and as `image_embed_model` of a `MultiModalVectorStoreIndex`, or in an ingestion pipeline,
    where it embeds a node that has an image by the image, together with the node's text if it has one.

    Example:
        >>> from bge_integrations.llama_index import BGEVisualEmbedding
        >>> embedding = BGEVisualEmbedding(model_name="BAAI/BGE-VL-base")
        >>> vector = embedding.get_image_embedding("red.png")
        >>> changed = embedding.get_image_embedding({"image": "red.png", "text": "the same in blue"})

    Besides a path or a BytesIO, an image may be bytes, a PIL image, a uint8 array (height, width, channels), the data
    URI of an image, or a dict of "image" and "text". An `embeddings_cache` is used for texts only.

    Raises:
        InvalidInputError: The model takes no images, or an image can't be decoded.
    """

    model_name: ModelName = Field(
        default="BAAI/BGE-VL-base", validation_alias=AliasChoices("model_name", "model"), min_length=1
    )
    """Hub id or checkpoint folder of a model that takes images, or the URL of a server that has one. `model=` works
    too."""

    _model: LazyModel[DenseView] = PrivateAttr(default_factory=lambda: LazyModel(load_visual))

    @classmethod
    def class_name(cls) -> str:
        return "BGEVisualEmbedding"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes, those with an image by the image and their text; used by ingestion pipelines."""
        images, texts = _split(nodes)
        super().__call__(texts, **kwargs)
        vectors = self.get_image_embedding_batch(list(images.values()), **kwargs)
        return _with_vectors(nodes, dict(zip(images, vectors, strict=True)))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Async version of `__call__`; does not block the event loop."""
        images, texts = _split(nodes)
        await super().acall(texts, **kwargs)
        vectors = await self.aget_image_embedding_batch(list(images.values()), **kwargs)
        return _with_vectors(nodes, dict(zip(images, vectors, strict=True)))

    def _get_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return (await self._aget_image_embeddings([img_file_path]))[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        return to_lists(self._loaded().encode(image_inputs(img_file_paths), "passage", self.show_progress_bar))

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        dense = await self._aloaded()
        vectors = await dense.aencode(image_inputs(img_file_paths), "passage", self.show_progress_bar)
        return await asyncio.to_thread(to_lists, vectors)


def _split(nodes: Sequence[BaseNode]) -> tuple[dict[int, Any], list[BaseNode]]:
    """Return {position: input} of the nodes with an image, and the other nodes."""
    images = {i: each for i, node in enumerate(nodes) if (each := _image_input(node, f"nodes[{i}]")) is not None}
    return images, [node for i, node in enumerate(nodes) if i not in images]


def _image_input(node: BaseNode, name: str) -> Input | None:
    """Return a node's image, and its text as LlamaIndex embeds it; None if the node has no image."""
    if isinstance(node, ImageNode):
        data, path, url, text = node.image, node.image_path, node.image_url, node.text
    elif isinstance(node, Node) and node.image_resource is not None:
        image = node.image_resource
        data, path, url = image.data and image.data.decode(), image.path, image.url and str(image.url)
        text = node.text_resource.text if node.text_resource else None
    else:
        return None
    image = path or url if data is None else decode_image(data, name)
    if image is None:
        return None
    return {"image": image, "text": node.get_content(MetadataMode.EMBED)} if text else {"image": image}


def _with_vectors(nodes: Sequence[BaseNode], vectors: Mapping[int, list[float]]) -> Sequence[BaseNode]:
    for i, vector in vectors.items():
        nodes[i].embedding = vector
    return nodes
