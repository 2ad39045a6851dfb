"""Our routes for indexes: search with filters, modes and the parts of scores, and their documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from bge_integrations.serving.answers import json_response
from bge_integrations.serving.calls import (
    check_batch,
    check_images,
    exchange_of,
    on_truncate,
    score,
    separate_report,
    service_of,
    too_long,
)
from bge_integrations.serving.fields import Flag, Weight
from bge_integrations.serving.images import ImageItem, inputs_of
from bge_integrations.serving.m3 import StrictModel
from bge_integrations.serving.pool import short_name
from bge_integrations.serving.refusals import Refusal

if TYPE_CHECKING:
    from bge_integrations.index import Hit, M3Index

router = APIRouter(prefix="/v1/indexes", tags=["indexes"])
#: Minimum number of hits that are reranked.
_RERANKED = 20
#: Maximum of `k` and of `candidates`.
_MOST = 10_000
#: A number of hits or candidates.
Hits = Annotated[int, Field(ge=1, le=_MOST, strict=True)]


class SearchRequest(StrictModel):
    query: str | ImageItem | None = None
    queries: list[str | ImageItem] | None = None
    k: Hits = 10
    mode: Literal["dense", "sparse", "multi_vector", "hybrid"] | None = None
    weights: tuple[Weight, Weight, Weight] | None = None
    fusion: Literal["weighted", "min_max", "z_score", "rrf"] | None = None
    filter: dict[str, Any] | None = None
    candidates: Hits | None = None
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
    query: str | None = Field(description="The query's text; null for an image without one.")
    hits: list[HitAnswer]


class SearchAnswer(BaseModel):
    index: str
    results: list[QueryAnswer]
    truncated: list[int] = Field(description="Positions of the queries that were truncated.")
    rerank_truncated: int = Field(description="Hits whose text was truncated for the reranker.")


class AddRequest(StrictModel):
    texts: list[str | ImageItem] = Field(description="Of an image, the vector and the text are stored.")
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
    representations: list[str] | None = Field(description="What it can be searched by.")


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
                "representations": None if index is None else index.representations,
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
    given = [body.query] if body.query is not None else body.queries or []
    check_batch(request, given, service.settings.batch_limit, "queries")
    queries = await _inputs_of(request, index, given, "queries")
    if body.rerank and not all(isinstance(query, str) for query in queries):
        raise Refusal(422, "rerankers read texts only; leave rerank out for images", "not_supported", param="rerank")
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
            "results": [
                {"query": query if isinstance(query, str) else query["text"], "hits": hits[: body.k]}
                for query, hits in zip(queries, results, strict=True)
            ],
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
    texts = await _inputs_of(request, index, body.texts, "texts")
    # for all texts at once, before any is stored
    truncated = await asyncio.to_thread(index.embedder.too_long, texts, kind="passage")
    if truncated and on_truncate(service, body.truncate) == "error":
        raise too_long("texts", truncated, index.embedder.max_length)
    with separate_report(request):  # the index encodes a few dozen texts at a time
        ids = await index.aadd(texts, body.ids, body.metadata, on_truncate="ignore")
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


async def _inputs_of(request: Request, index: M3Index, items: Sequence[str | ImageItem], name: str) -> list[Any]:
    """Return the texts and images of a request as inputs of the index.

    Raises:
        Refusal: The index's model takes no images.
    """
    inputs = await inputs_of(request, items, name)
    check_images(inputs, index.embedder, short_name(index.embedder.name))
    return inputs


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
