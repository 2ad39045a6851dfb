"""The FastAPI application: its routes, its layers, and its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from bge_integrations import __version__
from bge_integrations.errors import BGEError
from bge_integrations.serving import cohere, indexes, m3, openai, operations, page, rerank, root, tei
from bge_integrations.serving.exchange import Exchange, ExchangeMiddleware
from bge_integrations.serving.guard import GuardMiddleware
from bge_integrations.serving.refusals import Refusal, answer_of, refusal_of, validation_refusal
from bge_integrations.serving.service import Service
from bge_integrations.serving.settings import ServerSettings

_DESCRIPTION = """\
BGE models behind the routes of OpenAI, Cohere, Jina and text-embeddings-inference, and routes of our own: all outputs
of bge-m3 from one pass, and search in indexes.
"""
#: Answers with these statuses have the dialect's body of an error.
_ERRORS = {
    400: "No inputs, or a body that can't be read",
    401: "The key is missing or wrong",
    404: "No such model, index or document",
    408: "The body arrived too slowly",
    413: "Too many inputs, too large a body, or an input that is too long",
    422: "A field is wrong",
    424: "The model or the storage failed, or this server has none of the kind",
    429: "Overloaded; Retry-After says when to try again",
    503: "Not ready; Retry-After says when to try again",
    504: "Not done in time",
    507: "The disk is full",
}


class TeiError(BaseModel):
    error: str
    error_type: str


class OpenAIErrorDetails(BaseModel):
    message: str
    type: str
    code: str
    param: str | None


class OpenAIError(BaseModel):
    error: OpenAIErrorDetails
    message: str


class CohereError(BaseModel):
    id: str
    message: str


def create_app(settings: ServerSettings) -> FastAPI:
    """Return the server as a FastAPI application.

    The models are loaded in the background from the start of the application, or, if it is mounted in another one,
    from its first request; `/ready` says when they are loaded. `app.state.service` has `start()`, which begins sooner,
    and `stop()`, which unloads them.

    Args:
        settings: What to serve, and the limits.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()
        for close in closing:
            await asyncio.to_thread(close)

    closing: list[Callable[[], None]] = []
    layers = [Middleware(ExchangeMiddleware, service=service)]
    if settings.cors_allow_origins:
        origins = list(settings.cors_allow_origins)
        exposed = ["x-request-id", "x-bge-truncated", "retry-after"]
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=exposed,
            )
        )
    layers.append(Middleware(GuardMiddleware, service=service))
    app = FastAPI(
        title="bge_integrations",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        middleware=layers,
        license_info={"name": "MIT"},
    )
    app.state.service = service
    app.include_router(operations.router)
    app.include_router(page.router)
    for router, error in (
        (openai.router, OpenAIError),
        (m3.router, OpenAIError),
        (indexes.router, OpenAIError),
        (cohere.router, CohereError),
        (rerank.router, OpenAIError | CohereError | TeiError),
        (tei.router, TeiError),
        (root.router, TeiError),
    ):
        _include(app, router, error)
    for kind in (Refusal, BGEError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)
    if settings.otlp_endpoint is not None:
        from bge_integrations.serving.tracing import trace

        closing.append(trace(app, settings.otlp_endpoint))
    return app


def _include(app: FastAPI, router: APIRouter, error: Any) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": error, "description": description} for status, description in _ERRORS.items()
    }
    app.include_router(router, responses=responses)


async def _answer_error(request: Request, error: Exception) -> Response:
    exchange: Exchange = request.state.exchange
    if isinstance(error, RequestValidationError):
        refusal = validation_refusal(error.errors())
    else:
        refusal = refusal_of(error, request.app.state.service.rename)
    exchange.code = refusal.code
    return answer_of(refusal, exchange.path, exchange.request_id)
