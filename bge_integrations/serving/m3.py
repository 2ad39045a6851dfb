"""Our own routes for models: all outputs of one pass, scores of pairs, and tokens with their weights."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bge_integrations.serving.answers import json_response, json_rows, safetensors_response, sparse_json
from bge_integrations.serving.calls import (
    TextKindChoice,
    check_batch,
    choose_kind,
    embed,
    exchange_of,
    find_embedder,
    score,
    service_of,
)
from bge_integrations.serving.fields import Count, Flag, Pair
from bge_integrations.serving.images import ImageItem, inputs_of
from bge_integrations.serving.refusals import Refusal

router = APIRouter(tags=["bge_integrations"])
_BINARY = ("application/vnd.safetensors", "application/octet-stream")


class StrictModel(BaseModel):
    """A request of ours, in which a wrong field is an error."""

    model_config = ConfigDict(extra="forbid")


class M3Request(StrictModel):
    inputs: list[str | ImageItem]
    model: str | None = None
    kind: Literal["query", "passage"] | None = None
    dense: Flag = True
    sparse: Flag = False
    multi_vector: Flag = False
    query_instruction: str | None = Field(None, description="Instead of the model's own, for kind query.")
    truncate_dim: Count | None = None
    max_length: Count | None = None
    normalize: Flag = True
    truncate: Flag | None = None


class SparseRow(BaseModel):
    indices: list[int]
    values: list[float]


class TokenUsage(BaseModel):
    tokens: int


class M3Answer(BaseModel):
    model: str
    dense: list[list[float]] | None = None
    sparse: list[SparseRow] | None = None
    multi_vector: list[list[list[float]]] | None = None
    usage: TokenUsage
    truncated: list[int]


class ScoreRequest(StrictModel):
    pairs: list[Pair]
    model: str | None = None
    normalize: Flag = False
    max_length: Count | None = None
    query_max_length: Count | None = None
    truncate: Flag | None = None


class ScoreAnswer(BaseModel):
    model: str
    digest: str | None
    scores: list[float]
    usage: TokenUsage
    truncated: list[int]


class TokensRequest(StrictModel):
    inputs: list[str]
    model: str | None = None
    kind: Literal["query", "passage"] | None = None
    query_instruction: str | None = Field(None, description="Instead of the model's own, for kind query.")
    truncate: Flag = True
    weights: Flag = Field(True, description="False leaves the weights out, which is faster.")


class TokenWithWeight(BaseModel):
    id: int
    text: str
    start: int | None
    stop: int | None
    special: bool
    weight: float | None


class TextTokens(BaseModel):
    count: int
    tokens: list[TokenWithWeight]


class TokensAnswer(BaseModel):
    model: str
    results: list[TextTokens]
    usage: TokenUsage
    truncated: list[int]


@router.post("/v1/m3", response_model=M3Answer, responses={200: {"content": {"application/vnd.safetensors": {}}}})
async def m3(request: Request, body: M3Request) -> Response:
    """Embed texts and images: all vectors of one pass, as JSON, or as safetensors if `Accept` names it."""
    served, alias = find_embedder(request, body.model)
    check_batch(request, body.inputs, service_of(request).settings.batch_limit, "inputs")
    if not (body.dense or body.sparse or body.multi_vector):
        raise Refusal(422, "no output is requested; set dense, sparse or multi_vector", "invalid_value", param="dense")
    choice = choose_kind(request, body.kind, "kind", alias)
    if body.query_instruction is not None:
        choice = TextKindChoice(choice.kind, body.query_instruction)
    encoded = await embed(
        request,
        served,
        await inputs_of(request, body.inputs, "inputs"),
        choice,
        name="inputs",
        truncate=body.truncate,
        dimensions=body.truncate_dim,
        max_length=body.max_length,
        dense=body.dense,
        sparse=body.sparse,
        multi_vector=body.multi_vector,
        normalize=body.normalize,
    )
    report = exchange_of(request).report
    if request.headers.get("accept", "").partition(";")[0].strip() in _BINARY:
        truncated = ",".join(map(str, report.truncated))
        metadata = {
            "model": served.id,
            "digest": served.digest or "",
            "tokens": str(report.tokens),
            "truncated": truncated,
        }
        return safetensors_response(encoded, metadata)
    answer: dict[str, Any] = {"model": served.id}
    if encoded.dense is not None:
        answer["dense"] = await json_rows(encoded.dense)
    if encoded.sparse is not None:
        answer["sparse"] = [sparse_json(row) for row in encoded.sparse]
    if encoded.multi_vector is not None:
        answer["multi_vector"] = await json_rows(list(encoded.multi_vector))
    return json_response({**answer, "usage": {"tokens": report.tokens}, "truncated": report.truncated})


@router.post("/v1/score", response_model=ScoreAnswer)
async def score_pairs(request: Request, body: ScoreRequest) -> Response:
    """Score pairs of query and passage with a reranker: logits, or scores between 0 and 1 with `normalize`."""
    service = service_of(request)
    served = service.models.find(body.model, "reranker")
    check_batch(request, body.pairs, service.settings.batch_limit, "pairs")
    scores = await score(
        request,
        served,
        [(query, passage) for query, passage in body.pairs],
        name="pairs",
        normalize=body.normalize,
        truncate=body.truncate,
        max_length=body.max_length,
        query_max_length=body.query_max_length,
    )
    report = exchange_of(request).report
    return json_response(
        {
            "model": served.id,
            "digest": served.digest,
            "scores": scores,
            "usage": {"tokens": report.tokens},
            "truncated": report.truncated,
        }
    )


@router.post("/v1/tokens", response_model=TokensAnswer)
async def tokens(request: Request, body: TokensRequest) -> Response:
    """Return the tokens of texts as the model sees them, each with its lexical weight if the model has these.

    Texts are truncated to the model's maximum length, unless `truncate` is false. Row i of a text's multi-vectors
    belongs to its token i + 1.
    """
    service = service_of(request)
    served, alias = find_embedder(request, body.model)
    check_batch(request, body.inputs, service.settings.batch_limit, "inputs")
    choice = choose_kind(request, body.kind, "kind", alias)
    if body.query_instruction is not None:
        choice = TextKindChoice(choice.kind, body.query_instruction)
    async with service.models.use(served) as model:
        embedder = await service.models.variant(served, choice.instruction, None)
        most = embedder.max_length if body.truncate else None
        rows = await asyncio.to_thread(embedder.tokens, body.inputs, kind=choice.kind, max_length=most)
        has_weights = model.has_sparse and body.weights
    weights: list[dict[int, float]] = [{} for _ in rows]
    if has_weights:
        encoded = await embed(
            request, served, body.inputs, choice, name="inputs", truncate=True, dense=False, sparse=True
        )
        assert encoded.sparse is not None
        weights = encoded.sparse.to_dicts()
    results = [
        {
            "count": len(row),
            "tokens": [
                {
                    "id": token.id,
                    "text": token.text,
                    "start": token.start,
                    "stop": token.stop,
                    "special": token.is_special,
                    "weight": (0.0 if token.is_special else weight.get(token.id, 0.0)) if has_weights else None,
                }
                for token in row
            ],
        }
        for row, weight in zip(rows, weights, strict=True)
    ]
    report = exchange_of(request).report
    return json_response(
        {
            "model": served.id,
            "results": results,
            "usage": {"tokens": sum(map(len, rows))},
            "truncated": report.truncated,
        }
    )
