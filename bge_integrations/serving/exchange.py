"""The outermost layer of the application: each request gets an id, a line in the log, metrics, and always an answer."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders

from bge_integrations.core import report
from bge_integrations.serving.refusals import answer_of, refusal_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from bge_integrations.serving.service import Service

_logger = logging.getLogger("bge_integrations.serving.requests")
#: Paths whose requests are not counted, and logged only at DEBUG.
PROBES = frozenset({"/health", "/ready", "/metrics"})
#: Maximum positions in the header X-BGE-Truncated: proxies refuse long headers.
_POSITIONS = 100
_REQUEST_ID = re.compile(r"[\w.:=+/-]{1,128}", re.ASCII)


@dataclass
class Exchange:
    """A request and its answer, as the log and the metrics see them.

    Attributes:
        request_id: From the header X-Request-ID, or a new one.
        path: Without the prefix that the application is mounted under.
        report: What the core did for it.
        method: "single" or "batch" once the inputs are known.
        status: The status of the answer; 499 if the client left before it.
        code: The code of the error, if there was one.
    """

    request_id: str
    path: str
    report: report.CallReport
    method: str | None = None
    status: int = 499
    code: str = ""
    started: float = field(default_factory=time.perf_counter)


class ExchangeMiddleware:
    """Puts an `Exchange` into the state of each request, and turns every error into an answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._service.start()  # mounted in another application, this one gets no lifespan events
        with report.collect() as collected:
            given = Headers(scope=scope).get("x-request-id", "")
            request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
            exchange = Exchange(request_id, scope["path"].removeprefix(scope.get("root_path", "")), collected)
            scope.setdefault("state", {})["exchange"] = exchange

            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    exchange.status = message["status"]
                    self._add_headers(MutableHeaders(scope=message), exchange)
                await send(message)

            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:
                refusal = refusal_of(error, self._service.rename)
                exchange.code = refusal.code
                if exchange.status == 499:  # nothing was sent yet
                    await answer_of(refusal, exchange.path, request_id)(scope, receive, send_with_headers)
            finally:
                self._finish(exchange, scope["method"])

    def _add_headers(self, headers: MutableHeaders, exchange: Exchange) -> None:
        collected = exchange.report
        headers["x-request-id"] = exchange.request_id
        headers["x-total-time"] = _milliseconds(time.perf_counter() - exchange.started)
        if not collected.tokens:
            return
        headers["x-compute-type"] = "gpu" if self._service.uses_gpu else "cpu"
        headers["x-compute-time"] = headers["x-total-time"]
        headers["x-compute-characters"] = str(collected.characters)
        headers["x-compute-tokens"] = str(collected.tokens)
        headers["x-tokenization-time"] = _milliseconds(collected.tokenizing_seconds)
        headers["x-queue-time"] = _milliseconds(collected.queue_seconds)
        headers["x-inference-time"] = _milliseconds(collected.computing_seconds)
        if collected.truncated and exchange.status < 400:
            positions = collected.truncated
            more = [f"+{len(positions) - _POSITIONS}"] if len(positions) > _POSITIONS else []
            headers["x-bge-truncated"] = ",".join([*map(str, positions[:_POSITIONS]), *more])

    def _finish(self, exchange: Exchange, verb: str) -> None:
        seconds = time.perf_counter() - exchange.started
        is_failure = exchange.status >= 400
        code = exchange.code or ("client_left" if exchange.status == 499 else "not_ready")
        is_probe = exchange.path in PROBES
        if is_failure and not is_probe:
            self._service.metrics.count_failure(exchange.method, code)
        elif exchange.method is not None:
            self._service.metrics.count_request(exchange.method, seconds, exchange.report)
        details: dict[str, Any] = {
            "request_id": exchange.request_id,
            "method": verb,
            "path": exchange.path,
            "status": exchange.status,
            "seconds": round(seconds, 4),
        }
        if exchange.report.tokens:
            details["tokens"] = exchange.report.tokens
        if exchange.report.truncated:
            details["truncated"] = len(exchange.report.truncated)
        if is_failure:
            details["error"] = code
        _logger.log(logging.DEBUG if is_probe else logging.INFO, "request", extra={"details": details})


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
