"""`POST /`, which clients of Hugging Face's endpoints call: to embed, compare or rerank, by the body's fields."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Discriminator, Tag

from bge_integrations.serving import rerank, tei

router = APIRouter(tags=["text-embeddings-inference"])


def _purpose(body: Any) -> str:
    fields = body if isinstance(body, dict) else vars(body) if isinstance(body, BaseModel) else {}
    if "texts" in fields:
        return "to rerank"
    inputs = fields.get("inputs")
    return "to compare" if isinstance(inputs, dict | tei.SimilarityInputs) else "to embed"


AnyRequest = Annotated[
    Annotated[tei.EmbedRequest, Tag("to embed")]
    | Annotated[tei.SimilarityRequest, Tag("to compare")]
    | Annotated[rerank.TeiRerankRequest, Tag("to rerank")],
    Discriminator(_purpose),
]


@router.post("/", response_model=list[list[float]] | list[float] | list[rerank.TeiRank])
async def by_fields(request: Request, body: Annotated[AnyRequest, Body()]) -> Response:
    """Do what `/embed`, `/similarity` or `/rerank` does, by the fields of the body."""
    if isinstance(body, tei.SimilarityRequest):
        return await tei.similarity(request, body)
    if isinstance(body, rerank.TeiRerankRequest):
        return await rerank.rerank_texts(request, body)
    return await tei.embed_dense(request, body)
