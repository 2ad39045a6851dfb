"""Cohere's `/v2/embed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from bge_integrations.errors import InvalidInputError
from bge_integrations.serving.answers import base64_floats, json_response, json_rows
from bge_integrations.serving.calls import check_batch, choose_kind, embed, exchange_of, find_embedder, service_of
from bge_integrations.serving.fields import Count
from bge_integrations.serving.images import ImageItem, inputs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

router = APIRouter(tags=["Cohere"])
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class ImageUrl(BaseModel):
    url: str


class Content(BaseModel):
    """A part of an input: a text, or an image as a data URI."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class MixedInput(BaseModel):
    """An input of texts and at most one image."""

    content: list[Content]

    def item(self, name: str) -> ImageItem:
        """Return it as one item. `name` is for messages."""
        texts = [part.text for part in self.content if part.text is not None]
        images = [part.image_url.url for part in self.content if part.image_url is not None]
        if len(images) > 1:
            raise InvalidInputError(f"{name} has {len(images)} images; send one image per input")
        return ImageItem(image=images[0] if images else None, text="\n".join(texts) if texts else None)


class EmbedRequest(BaseModel):
    """Cohere's request: one of `texts`, `images` and `inputs`.

    Texts that are too long are truncated, and the answer says so, unless `truncate` is NONE.
    """

    texts: list[str] | None = None
    images: list[str] | None = Field(None, description="Data URIs.")
    inputs: list[MixedInput] | None = None
    model: str | None = None
    input_type: Literal["search_query", "search_document", "classification", "clustering", "image"] | None = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: Count | None = None
    truncate: Literal["END", "NONE"] = "END"


class EmbedAnswer(BaseModel):
    id: str
    response_type: Literal["embeddings_by_type"]
    embeddings: dict[EmbeddingType, list[Any]]
    texts: list[str]
    meta: dict[str, Any]


@router.post("/v2/embed", response_model=EmbedAnswer)
async def embed_by_type(request: Request, body: EmbedRequest) -> Response:
    """Embed texts or images, texts as queries or passages by `input_type`, in one or more number formats."""
    served, alias = find_embedder(request, body.model)
    name, items = _items(body)
    check_batch(request, items, service_of(request).settings.batch_limit, name)
    choice = choose_kind(request, body.input_type, "input_type", alias)
    encoded = await embed(
        request,
        served,
        await inputs_of(request, items, name),
        choice,
        name=name,
        truncate=body.truncate == "END",
        dimensions=body.output_dimension,
    )
    assert encoded.dense is not None
    embeddings = {name: await _in_format(encoded.dense, name) for name in body.embedding_types or ["float"]}
    exchange = exchange_of(request)
    meta: dict[str, Any] = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": exchange.report.tokens},
    }
    if exchange.report.truncated:
        meta["warnings"] = [f"{name}[{position}] was truncated" for position in exchange.report.truncated]
    return json_response(
        {
            "id": exchange.request_id,
            "response_type": "embeddings_by_type",
            "embeddings": embeddings,
            "texts": body.texts or [],
            "meta": meta,
        }
    )


def _items(body: EmbedRequest) -> tuple[str, Sequence[str | ImageItem]]:
    """Return the name of the field that a request uses, and its items."""
    fields = {"texts": body.texts, "images": body.images, "inputs": body.inputs}
    if sum(items is not None for items in fields.values()) != 1:
        raise InvalidInputError("send one of texts, images and inputs", argument="texts")
    if body.images is not None:
        return "images", [ImageItem(image=image) for image in body.images]
    if body.inputs is not None:
        return "inputs", [mixed.item(f"inputs[{i}]") for i, mixed in enumerate(body.inputs)]
    return "texts", body.texts or []


async def _in_format(vectors: NDArray[np.float32], name: EmbeddingType) -> list[Any]:
    """Return unit vectors in a format, without regard to what else is in the batch.

    int8 is round(127 · x), and uint8 is that plus 128. ubinary packs the bits x > 0, eight to a byte, and binary is
    that less 128, as in sentence-transformers.
    """
    if name == "float":
        return await json_rows(vectors)
    if name == "base64":
        return [base64_floats(row) for row in vectors]
    if name in ("int8", "uint8"):
        rounded = np.clip(np.rint(vectors * 127), -127, 127).astype(np.int16)
        rows = rounded if name == "int8" else rounded + 128
    else:
        packed = np.packbits(vectors > 0, axis=1).astype(np.int16)
        rows = packed if name == "ubinary" else packed - 128
    return list(rows)
