"""Probes, metrics, and `/info`, which describes the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bge_integrations import __version__
from bge_integrations.core import runtime
from bge_integrations.serving.answers import json_response
from bge_integrations.serving.calls import service_of

if TYPE_CHECKING:
    from bge_integrations.serving.pool import ServedModel

router = APIRouter(tags=["operation"])


@router.get("/health")
async def health() -> Response:
    """Whether the process is alive: status 200, also while models are being loaded."""
    return json_response({"status": "alive"})


@router.get("/ready", responses={503: {"description": "Models are being loaded"}})
async def ready(request: Request) -> Response:
    """Whether requests can be answered: status 200, or 503 while models are being loaded."""
    is_ready = service_of(request).is_ready
    response = json_response({"status": "ready" if is_ready else "loading"})
    if not is_ready:
        response.status_code = 503
        response.headers["retry-after"] = "2"
    return response


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(generate_latest(service_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/info")
async def info(request: Request) -> Response:
    """Describe the server: text-embeddings-inference's fields, and `models`, `indexes` and `limits`."""
    service = service_of(request)
    settings = service.settings
    models = [_described(served) for served in service.models.models]
    first = models[0] if models else {"id": None, "kind": None, "max_length": None, "dtype": None, "digest": None}
    model_type: dict[str, Any] | None = None
    if first["kind"] == "embedder":
        model_type = {"embedding": {"pooling": first.get("pooling")}}
    elif first["kind"] == "reranker":
        model_type = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    return json_response(
        {
            "model_id": first["id"],
            "model_sha": first.get("revision"),
            "model_dtype": first["dtype"],
            "model_type": model_type,
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_input_length": first["max_length"],
            "max_batch_tokens": runtime.policy.batch_tokens("cuda" if service.uses_gpu else "cpu"),
            "max_batch_requests": None,
            "max_client_batch_size": settings.tei_batch_limit,
            "auto_truncate": settings.auto_truncate,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "server": "bge_integrations",
            "ready": service.is_ready,
            "models": models,
            "indexes": list(settings.indexes),
            "limits": {
                "max_client_batch_size": settings.batch_limit,
                "payload_limit": settings.payload_limit,
                "max_image_pixels": settings.max_image_pixels,
                "max_concurrent_requests": settings.max_concurrent_requests,
                "request_timeout": settings.request_timeout,
            },
        }
    )


def _described(served: ServedModel) -> dict[str, Any]:
    """Return what a client needs to know about a model; what only a loaded model knows is null before that."""
    model: Any = served.model
    described: dict[str, Any] = {
        "id": served.id,
        "names": list(served.names),
        "kind": served.kind,
        "loaded": model is not None,
        "max_length": None,
        "dtype": None,
        "device": None,
        "digest": None,
        "revision": None,
    }
    if served.kind == "embedder":
        described |= dict.fromkeys(("dim", "multi_vector_dim", "vocabulary_size", "pooling"))
        described |= dict.fromkeys(("query_instruction", "passage_instruction", "outputs", "takes_images"))
    if model is None:
        return described
    described |= {"max_length": model.max_length, "dtype": model.dtype, "device": model.device}
    described |= {"digest": model.weights_digest, "revision": model.revision}
    if served.kind == "embedder":
        described |= {
            "dim": model.dimension,
            "multi_vector_dim": model.multi_vector_dimension,
            "vocabulary_size": model.vocabulary_size,
            "pooling": model.pooling,
            "query_instruction": model.query_instruction,
            "passage_instruction": model.passage_instruction,
            "outputs": ["dense", "sparse", "multi_vector"] if model.has_sparse else ["dense"],
            "takes_images": model.takes_images,
        }
    return described
