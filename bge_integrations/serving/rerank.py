"""Reranking as Cohere and Jina have it, and `/rerank` as text-embeddings-inference has it too."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from bge_integrations.scoring import select_best
from bge_integrations.serving.answers import json_response
from bge_integrations.serving.calls import check_batch, exchange_of, score, service_of
from bge_integrations.serving.fields import Count, Flag

router = APIRouter(tags=["reranking"])


class TextDocument(BaseModel):
    text: str


class RerankRequest(BaseModel):
    """Cohere's and Jina's request. Documents that are too long are truncated unless `truncate` is false."""

    query: str
    documents: list[str | TextDocument]
    model: str | None = None
    top_n: Count | None = None
    return_documents: Flag = False
    max_tokens_per_doc: Count | None = Field(
        None, description="Ignored: documents are truncated to the reranker's maximum length, less the query."
    )
    truncate: Flag = True


class TeiRerankRequest(BaseModel):
    """text-embeddings-inference's request."""

    query: str
    texts: list[str]
    truncate: Flag | None = None
    raw_scores: Flag = False
    return_text: Flag = False


class RerankResult(BaseModel):
    index: int
    relevance_score: float
    document: TextDocument | None = None


class RerankAnswer(BaseModel):
    id: str
    model: str
    results: list[RerankResult]
    usage: dict[str, int]
    meta: dict[str, Any]


class TeiRank(BaseModel):
    index: int
    score: float
    text: str | None = None


def _dialect(body: Any) -> str | None:
    """Return the tag of a request by the field that it has; None if it has neither."""
    fields = body if isinstance(body, dict) else vars(body) if isinstance(body, BaseModel) else {}
    if "documents" in fields:
        return "with documents"
    return "with texts" if "texts" in fields else None


AnyRerankRequest = Annotated[
    Annotated[RerankRequest, Tag("with documents")] | Annotated[TeiRerankRequest, Tag("with texts")],
    Discriminator(
        _dialect,
        custom_error_type="missing_inputs",
        custom_error_message="it has neither documents (Cohere, Jina) nor texts (text-embeddings-inference); send one",
    ),
]


@router.post("/v1/rerank", response_model=RerankAnswer, response_model_exclude_none=True)
@router.post("/v2/rerank", response_model=RerankAnswer, response_model_exclude_none=True)
async def rerank(request: Request, body: RerankRequest) -> Response:
    """Sort documents by their relevance to a query; scores are between 0 and 1."""
    service = service_of(request)
    served = service.models.find(body.model, "reranker")
    check_batch(request, body.documents, service.settings.batch_limit, "documents")
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    pairs = [(body.query, text) for text in texts]
    scores = (await score(request, served, pairs, name="documents", normalize=True, truncate=body.truncate)).tolist()
    results = []
    for i in select_best(scores, body.top_n):
        result: dict[str, Any] = {"index": i, "relevance_score": scores[i]}
        if body.return_documents:
            result["document"] = {"text": texts[i]}
        results.append(result)
    exchange = exchange_of(request)
    tokens = exchange.report.tokens
    meta: dict[str, Any] = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    if exchange.report.truncated:
        meta["warnings"] = [f"{len(exchange.report.truncated)} documents were truncated"]
    return json_response(
        {
            "id": exchange.request_id,
            "model": body.model or served.id,
            "results": results,
            "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
            "meta": meta,
        }
    )


@router.post("/rerank", response_model=RerankAnswer | list[TeiRank], response_model_exclude_none=True)
async def rerank_either(request: Request, body: Annotated[AnyRerankRequest, Body()]) -> Response:
    """Sort `documents` as Jina's and Cohere's clients ask, or `texts` as text-embeddings-inference's do."""
    if isinstance(body, RerankRequest):
        return await rerank(request, body)
    return await rerank_texts(request, body)


async def rerank_texts(request: Request, body: TeiRerankRequest) -> Response:
    """Sort `texts`, as text-embeddings-inference does."""
    service = service_of(request)
    check_batch(request, body.texts, service.settings.tei_batch_limit, "texts")
    served = service.models.find(None, "reranker")
    pairs = [(body.query, text) for text in body.texts]
    scores = (
        await score(request, served, pairs, name="texts", normalize=not body.raw_scores, truncate=body.truncate)
    ).tolist()
    ranks = [{"index": i, "score": scores[i]} for i in select_best(scores, None)]
    if body.return_text:
        ranks = [{**rank, "text": body.texts[rank["index"]]} for rank in ranks]
    return json_response(ranks)
