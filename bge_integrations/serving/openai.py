"""OpenAI's routes: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from bge_integrations.serving.answers import base64_floats, json_response, json_rows
from bge_integrations.serving.calls import (
    check_batch,
    choose_kind,
    embed,
    exchange_of,
    find_embedder,
    service_of,
)
from bge_integrations.serving.fields import Count, Flag, TokenId
from bge_integrations.serving.images import ImageItem, inputs_of
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

router = APIRouter(tags=["OpenAI"])
_TOKEN_ADVICE = (
    "token ids must be those of the model itself, with its special tokens, as /tokenize returns them. If LangChain's "
    "OpenAIEmbeddings sent them, set check_embedding_ctx_length=False, so that it sends texts"
)


class EmbeddingsRequest(BaseModel):
    """A request of OpenAI's embeddings, with `input_type` and `truncate` added."""

    input: str | list[str | ImageItem] | list[TokenId] | list[list[TokenId]] = Field(
        description="Texts; images, as Jina has them or as data URIs; or token ids."
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None
    user: str | None = None
    input_type: str | None = Field(None, description='"query" or "passage": which instruction the texts get.')
    truncate: Flag | None = Field(None, description="Truncate inputs that are too long.")


class EmbeddingRow(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingRow]
    model: str
    usage: Usage


class ModelRow(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsAnswer(BaseModel):
    object: Literal["list"]
    data: list[ModelRow]


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer)
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """Embed texts and images.

    Queries and passages: `model` "NAME:query" or "NAME:passage", `input_type`, or X-BGE-Kind.
    """
    service = service_of(request)
    served, alias = find_embedder(request, body.model)
    given: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
    if given and isinstance(given[0], int):
        given = [given]
    check_batch(request, given, service.settings.batch_limit, "input")
    choice = choose_kind(request, body.input_type, "input_type", alias)
    async with service.models.use(served) as embedder:
        if isinstance(given[0], list):
            texts: list[Any] = await asyncio.to_thread(_texts_of, embedder, given)
        else:
            texts = await inputs_of(request, given, "input", uris=embedder.takes_images)
    encoded = await embed(
        request, served, texts, choice, name="input", truncate=body.truncate, dimensions=body.dimensions
    )
    assert encoded.dense is not None
    as_base64 = body.encoding_format == "base64"
    rows: list[Any] = [base64_floats(row) for row in encoded.dense] if as_base64 else await json_rows(encoded.dense)
    tokens = exchange_of(request).report.tokens
    return json_response(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
            "model": body.model or served.id,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


@router.get("/v1/models", response_model=ModelsAnswer)
async def models(request: Request) -> Response:
    """List the models under all their names."""
    served = service_of(request).models.models
    names = dict.fromkeys(name for model in served for name in model.names)
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "bge_integrations"} for name in names]
    return json_response({"object": "list", "data": rows})


def _texts_of(embedder: Embedder, rows: list[list[int]]) -> list[str]:
    """Return the texts that token ids stand for, if the model's tokenizer gives the same ids for them.

    Raises:
        Refusal: It does not, so that the ids are probably another model's.
    """
    texts = []
    for position, ids in enumerate(rows):
        text = embedder.decode(ids) if ids and max(ids) < embedder.vocabulary_size else None
        if text is None or [token.id for token in embedder.tokens([text])[0]] != ids:
            raise Refusal(422, f"input[{position}]: {_TOKEN_ADVICE}", "invalid_tokens", param="input")
        texts.append(text)
    return texts
