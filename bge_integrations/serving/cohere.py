"""Cohere's `/v2/embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from bge_integrations.serving.answers import base64_floats, json_response, json_rows
from bge_integrations.serving.calls import check_batch, choose_kind, embed, exchange_of, find_embedder, service_of
from bge_integrations.serving.fields import Count

if TYPE_CHECKING:
    from numpy.typing import NDArray

router = APIRouter(tags=["Cohere"])
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class EmbedRequest(BaseModel):
    """Cohere's request. Texts that are too long are truncated, and the answer says so, unless `truncate` is NONE."""

    texts: list[str]
    model: str | None = None
    input_type: Literal["search_query", "search_document", "classification", "clustering"] | None = None
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
    """Embed texts as queries or passages, by `input_type`, in one or more number formats."""
    served, alias = find_embedder(request, body.model)
    check_batch(request, body.texts, service_of(request).settings.batch_limit, "texts")
    choice = choose_kind(request, body.input_type, "input_type", alias)
    encoded = await embed(
        request,
        served,
        body.texts,
        choice,
        name="texts",
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
        meta["warnings"] = [f"texts[{position}] was truncated" for position in exchange.report.truncated]
    return json_response(
        {
            "id": exchange.request_id,
            "response_type": "embeddings_by_type",
            "embeddings": embeddings,
            "texts": body.texts,
            "meta": meta,
        }
    )


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
