"""Our routes for indexes: search with filters, modes and the parts of scores, and their documents."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from bge_integrations.serving.answers import json_response
from bge_integrations.serving.calls import (
    check_batch,
    exchange_of,
    on_truncate,
    score,
    separate_report,
    service_of,
    too_long,
)
from bge_integrations.serving.fields import Flag, Weight
from bge_integrations.serving.m3 import StrictModel
from bge_integrations.serving.pool import short_name
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from bge_integrations.index import Hit

router = APIRouter(prefix="/v1/indexes", tags=["indexes"])
#: Minimum number of hits that are reranked.
_RERANKED = 20
#: Maximum of `k` and of `candidates`.
_MOST = 10_000
#: A number of hits or candidates.
Hits = Annotated[int, Field(ge=1, le=_MOST, strict=True)]


class SearchRequest(StrictModel):
    query: str | None = None
    queries: list[str] | None = None
    k: Hits = 10
    mode: Literal["dense", "sparse", "multi_vector", "hybrid"] = "hybrid"
    weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1.0)
    fusion: Literal["weighted", "min_max", "z_score", "rrf"] = "weighted"
    filter: dict[str, Any] | None = None
    candidates: Hits = 200
    rerank: Flag | str = Field(False, description="Rerank the best hits, with the first reranker or the named one.")


class HitAnswer(BaseModel):
    id: str
    text: str
    metadata: dict[str, Any]
    score: float
    parts: dict[str, float]
    retrieval_score: float
    retrieval_rank: int


class QueryAnswer(BaseModel):
    query: str
    hits: list[HitAnswer]


class SearchAnswer(BaseModel):
    index: str
    results: list[QueryAnswer]
    truncated: list[int] = Field(description="Positions of the queries that were truncated.")
    rerank_truncated: int = Field(description="Hits whose text was truncated for the reranker.")


class AddRequest(StrictModel):
    texts: list[str]
    ids: list[str | None] | None = None
    metadata: list[dict[str, Any]] | None = None
    truncate: Flag | None = None


class AddAnswer(BaseModel):
    index: str
    ids: list[str]
    truncated: list[int]


class DeleteRequest(StrictModel):
    ids: list[str] | None = None
    filter: dict[str, Any] | None = None


class DeleteAnswer(BaseModel):
    index: str
    deleted: int


class DocumentAnswer(BaseModel):
    id: str
    text: str
    metadata: dict[str, Any]


class IndexRow(BaseModel):
    id: str
    object: Literal["index"]
    ready: bool
    read_only: bool
    documents: int | None
    model: str | None


class IndexesAnswer(BaseModel):
    object: Literal["list"]
    data: list[IndexRow]


@router.get("", response_model=IndexesAnswer)
async def list_indexes(request: Request) -> Response:
    """List the indexes with their numbers of documents."""
    service = service_of(request)
    rows = []
    for name in service.settings.indexes:
        index = service.indexes.get(name)
        rows.append(
            {
                "id": name,
                "object": "index",
                "ready": index is not None,
                "read_only": service.settings.read_only,
                "documents": None if index is None else await asyncio.to_thread(index.count),
                "model": None if index is None else short_name(index.embedder.name),
            }
        )
    return json_response({"object": "list", "data": rows})


@router.post("/{name}/search", response_model=SearchAnswer)
async def search(request: Request, name: str, body: SearchRequest) -> Response:
    """Search an index with one query or several. Each hit has the parts of its score."""
    service = service_of(request)
    index = service.index(name)
    if (body.query is None) == (body.queries is None):
        raise Refusal(422, "send either query or queries", "invalid_value", param="query")
    queries = [body.query] if body.query is not None else body.queries or []
    check_batch(request, queries, service.settings.batch_limit, "queries")
    k = max(body.k, _RERANKED) if body.rerank else body.k
    # M3Index truncates queries, which the answer reports
    found = await index.asearch_many(
        queries,
        k,
        mode=body.mode,
        weights=body.weights,
        fusion=body.fusion,
        filter=body.filter,
        candidates=body.candidates,
    )
    results = [[_described(hit, rank) for rank, hit in enumerate(hits, start=1)] for hits in found]
    truncated = 0
    if body.rerank:
        reranker = body.rerank if isinstance(body.rerank, str) else None
        truncated = await _rerank(request, queries, results, reranker)
    return json_response(
        {
            "index": name,
            "results": [{"query": query, "hits": hits[: body.k]} for query, hits in zip(queries, results, strict=True)],
            "truncated": exchange_of(request).report.truncated,
            "rerank_truncated": truncated,
        }
    )


@router.post("/{name}/documents", response_model=AddAnswer)
async def add(request: Request, name: str, body: AddRequest) -> Response:
    """Add documents, or replace those with the same id. They are on disk when this is answered."""
    service = service_of(request)
    index = service.index(name)
    check_batch(request, body.texts, service.settings.batch_limit, "texts")
    for field, values in (("ids", body.ids), ("metadata", body.metadata)):
        if values is not None and len(values) != len(body.texts):
            raise Refusal(
                422, f"{field} has {len(values)} items for {len(body.texts)} texts", "invalid_value", param=field
            )
    # for all texts at once, before any is stored
    lengths = await asyncio.to_thread(index.embedder.count_tokens, body.texts, kind="passage")
    truncated = [i for i, length in enumerate(lengths) if length > index.embedder.max_length]
    if truncated and on_truncate(service, body.truncate) == "error":
        raise too_long("texts", truncated, index.embedder.max_length)
    with separate_report(request):  # the index encodes a few dozen texts at a time
        ids = await index.aadd(body.texts, body.ids, body.metadata, on_truncate="ignore")
    exchange_of(request).report.truncated = truncated
    return json_response({"index": name, "ids": ids, "truncated": truncated})


@router.post("/{name}/documents/delete", response_model=DeleteAnswer)
async def delete_many(request: Request, name: str, body: DeleteRequest) -> Response:
    """Delete documents by their ids, or those that match a filter."""
    index = service_of(request).index(name)
    return json_response({"index": name, "deleted": await index.adelete(body.ids, body.filter)})


@router.get("/{name}/documents/{identifier:path}", response_model=DocumentAnswer)
async def get_one(request: Request, name: str, identifier: str) -> Response:
    """Return a document."""
    found = await service_of(request).index(name).aget([identifier])
    if not found:
        raise Refusal(404, f"the index {name!r} has no document {identifier!r}", "document_not_found")
    return json_response(asdict(found[0]))


@router.delete("/{name}/documents/{identifier:path}", response_model=DeleteAnswer)
async def delete_one(request: Request, name: str, identifier: str) -> Response:
    """Delete a document; `deleted` is 0 if there was none."""
    deleted = await service_of(request).index(name).adelete([identifier])
    return json_response({"index": name, "deleted": deleted})


def _described(hit: Hit, rank: int) -> dict[str, Any]:
    return {
        "id": hit.id,
        "text": hit.text,
        "metadata": hit.metadata,
        "score": hit.score,
        "parts": dict(hit.scores),
        "retrieval_score": hit.score,
        "retrieval_rank": rank,
    }


async def _rerank(request: Request, queries: list[str], results: list[list[dict[str, Any]]], model: str | None) -> int:
    """Sort each query's hits by a reranker's scores, and add these to the parts; return how many were truncated."""
    served = service_of(request).models.find(model, "reranker")
    pairs = [(query, hit["text"]) for query, hits in zip(queries, results, strict=True) for hit in hits]
    with separate_report(request) as report:  # the answer's `truncated` counts the queries
        scores = await score(request, served, pairs, name="hits", normalize=False, truncate=True)
    remaining = iter(scores.tolist())
    for hits in results:
        for hit in hits:
            hit["score"] = hit["parts"]["rerank"] = next(remaining)
        hits.sort(key=lambda hit: -hit["score"])
    return len(report.truncated)
