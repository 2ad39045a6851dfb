"""The routes of text-embeddings-inference, except `/rerank`, which others have too."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from bge_integrations.serving.answers import json_response, json_rows
from bge_integrations.serving.calls import check_batch, choose_kind, embed, score, service_of
from bge_integrations.serving.fields import Count, Flag, Pair, TokenId

router = APIRouter(tags=["text-embeddings-inference"])


class Inputs(BaseModel):
    """What all routes for texts share."""

    inputs: str | list[str]
    prompt_name: str | None = Field(None, description='"query" or "passage": which instruction the texts get.')
    truncate: Flag | None = Field(None, description="Truncate inputs that are too long.")
    truncation_direction: Literal["right", "Right"] | None = None

    @property
    def texts(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs


class EmbedRequest(Inputs):
    normalize: Flag = True
    dimensions: Count | None = None


class PairsRequest(BaseModel):
    """Pairs of query and passage: one pair, or a batch of pairs as TEI takes them."""

    inputs: Pair | list[Pair]
    truncate: Flag | None = None
    raw_scores: Flag = False


class SimilarityInputs(BaseModel):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(BaseModel):
    prompt_name: str | None = None
    truncate: Flag | None = None


class SimilarityRequest(BaseModel):
    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeRequest(BaseModel):
    inputs: str | list[str]
    add_special_tokens: Flag = True
    prompt_name: str | None = None


class DecodeRequest(BaseModel):
    ids: list[TokenId] | list[list[TokenId]]
    skip_special_tokens: Flag = True


class SparseValue(BaseModel):
    index: int
    value: float


class TokenRow(BaseModel):
    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Prediction(BaseModel):
    label: str
    score: float


@router.post("/embed", response_model=list[list[float]])
async def embed_dense(request: Request, body: EmbedRequest) -> Response:
    """Embed texts: one dense vector each."""
    encoded = await _encode(request, body, dimensions=body.dimensions, normalize=body.normalize)
    return json_response(await json_rows(encoded.dense))


@router.post("/embed_sparse", response_model=list[list[SparseValue]])
async def embed_sparse(request: Request, body: Inputs) -> Response:
    """Embed texts: lexical weights by token id (bge-m3)."""
    encoded = await _encode(request, body, dense=False, sparse=True)
    return json_response(
        [
            [{"index": i, "value": v} for i, v in zip(row.indices.tolist(), row.values.tolist(), strict=True)]
            for row in encoded.sparse
        ]
    )


@router.post("/embed_all", response_model=list[list[list[float]]])
async def embed_all(request: Request, body: Inputs) -> Response:
    """Embed texts: one vector for each token but the first (bge-m3's multi-vectors)."""
    encoded = await _encode(request, body, dense=False, multi_vector=True)
    return json_response(await json_rows(list(encoded.multi_vector)))


@router.post("/similarity", response_model=list[float])
async def similarity(request: Request, body: SimilarityRequest) -> Response:
    """Compare a sentence with others: the cosines of their dense vectors."""
    parameters = body.parameters or SimilarityParameters()
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    check_batch(request, body.inputs.sentences, service_of(request).settings.tei_batch_limit, "sentences")
    choice = choose_kind(request, parameters.prompt_name, "prompt_name")
    served = service_of(request).models.find(None, "embedder")
    encoded = await embed(request, served, texts, choice, name="inputs", truncate=parameters.truncate)
    assert encoded.dense is not None
    return json_response(encoded.dense[1:] @ encoded.dense[0])


@router.post("/predict", response_model=list[Prediction] | list[list[Prediction]])
async def predict(request: Request, body: PairsRequest) -> Response:
    """Score pairs with the reranker: a single label per pair."""
    is_single = isinstance(body.inputs[0], str) if body.inputs else False
    pairs: list[Any] = [body.inputs] if is_single else list(body.inputs)
    check_batch(request, pairs, service_of(request).settings.tei_batch_limit, "inputs")
    served = service_of(request).models.find(None, "reranker")
    scores = await score(
        request,
        served,
        [(query, passage) for query, passage in pairs],
        name="inputs",
        normalize=not body.raw_scores,
        truncate=body.truncate,
    )
    rows = [[{"label": "LABEL_0", "score": value}] for value in scores.tolist()]
    return json_response(rows[0] if is_single else rows)


@router.post("/tokenize", response_model=list[list[TokenRow]])
async def tokenize(request: Request, body: TokenizeRequest) -> Response:
    """Return the tokens of texts."""
    service = service_of(request)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    check_batch(request, texts, service.settings.tei_batch_limit, "inputs")
    choice = choose_kind(request, body.prompt_name, "prompt_name")
    async with service.models.use(service.models.find(None, "embedder")) as embedder:
        rows = await asyncio.to_thread(embedder.tokens, texts, kind=choice.kind)
    return json_response(
        [
            [
                {"id": t.id, "text": t.text, "special": t.is_special, "start": t.start, "stop": t.stop}
                for t in tokens
                if body.add_special_tokens or not t.is_special
            ]
            for tokens in rows
        ]
    )


@router.post("/decode", response_model=list[str])
async def decode(request: Request, body: DecodeRequest) -> Response:
    """Return the texts that token ids stand for."""
    service = service_of(request)
    given: list[Any] = list(body.ids)
    if given and isinstance(given[0], int):
        given = [given]
    check_batch(request, given, service.settings.tei_batch_limit, "ids")
    async with service.models.use(service.models.find(None, "embedder")) as embedder:
        decode_one = partial(embedder.decode, skip_special_tokens=body.skip_special_tokens)
        texts = await asyncio.to_thread(lambda: [decode_one(ids) for ids in given])
    return json_response(texts)


async def _encode(request: Request, body: Inputs, *, dimensions: int | None = None, **outputs: bool) -> Any:
    service = service_of(request)
    check_batch(request, body.texts, service.settings.tei_batch_limit, "inputs")
    choice = choose_kind(request, body.prompt_name, "prompt_name")
    served = service.models.find(None, "embedder")
    return await embed(
        request, served, body.texts, choice, name="inputs", truncate=body.truncate, dimensions=dimensions, **outputs
    )
