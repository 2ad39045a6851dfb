"""Errors as answers: the status of each, and its body in each dialect. No answer contains a traceback or a path."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response
from starlette.exceptions import HTTPException

from bge_integrations import errors
from bge_integrations.core import runtime

_logger = logging.getLogger(__name__)

#: (error_type of text-embeddings-inference, type of OpenAI) by status.
_TYPES = {
    400: ("Empty", "invalid_request_error"),
    401: ("Unauthorized", "authentication_error"),
    404: ("NotFound", "invalid_request_error"),
    405: ("MethodNotAllowed", "invalid_request_error"),
    408: ("Timeout", "invalid_request_error"),
    413: ("Validation", "invalid_request_error"),
    422: ("Validation", "invalid_request_error"),
    424: ("Backend", "server_error"),
    429: ("Overloaded", "rate_limit_error"),
    500: ("Internal", "server_error"),
    503: ("Unhealthy", "server_error"),
    504: ("Timeout", "server_error"),
    507: ("Storage", "server_error"),
}
#: Status and code of our errors; the first that fits counts. Their messages are shown, with the names of models instead
#: of their folders.
_SHOWN: list[tuple[type[errors.BGEError], int, str]] = [
    (errors.TextTooLongError, 413, "context_length_exceeded"),
    (errors.InvalidInputError, 422, "invalid_value"),
    (errors.NotSupportedError, 422, "not_supported"),
    (errors.OverloadedError, 429, "overloaded"),
]
#: Status, code and message of errors whose own messages are only logged.
_HIDDEN: list[tuple[type[BaseException], int, str, str]] = [
    (errors.OutOfMemoryError, 424, "out_of_memory", "the device ran out of memory; send shorter inputs"),
    (errors.NonFiniteError, 424, "model_failed", "the model returned NaN or infinity for an input"),
    (errors.ComputationError, 424, "model_failed", "the model failed on this request"),
    (errors.ClosedError, 503, "not_ready", "the model is being unloaded; try again"),
    (errors.IndexNotFoundError, 404, "index_not_found", "the index does not exist any more"),
    (errors.DiskFullError, 507, "disk_full", "the server's disk is full; nothing of this request was lost or stored"),
    (errors.BGEError, 424, "failed", "the request failed; the server's log says why"),
]


class Refusal(Exception):
    """A request is answered with an error.

    Attributes:
        status: The HTTP status.
        message: What is wrong and what to do.
        code: OpenAI's code.
        param: The field that the error is about.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)


def refusal_of(error: BaseException, rename: Callable[[str], str]) -> Refusal:
    """Return what is answered for an error; whatever the client did not cause is logged.

    Args:
        error: The error.
        rename: Replaces the folders of models and indexes in a message by their names.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, str(error.detail), "http_error", headers=error.headers)
    for shown, status, code in _SHOWN:
        if isinstance(error, shown):
            retry_after = seconds_until_room() if status == 429 else None
            return Refusal(status, rename(str(error)), code, param=error.argument, retry_after=retry_after)
    _logger.error("a request failed", exc_info=error)
    for hidden, status, code, message in _HIDDEN:
        if isinstance(error, hidden):
            return Refusal(status, message, code, retry_after=1 if status == 503 else None)
    return Refusal(500, "the server failed; its log says why", "internal_error")


def validation_refusal(problems: Sequence[Any]) -> Refusal:
    """Return the answer to a body that does not have the right fields: what is wrong, and where."""
    problem = max(problems, key=lambda each: len(each["loc"]))  # of a field that may be a list, name the item
    # pydantic adds the types and tags of unions, such as "list[str]", which mean nothing to a client
    place = [str(part) for part in problem["loc"][1:] if isinstance(part, int) or part.isidentifier()]
    place = [part for part in place if part not in ("str", "int") and not part[0].isupper()]
    name = place[0] + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in place[1:]) if place else ""
    if problem["type"] == "json_invalid":
        return Refusal(422, f"the body is not valid JSON: {problem.get('ctx', {}).get('error', '')}", "invalid_json")
    message = f"{name}: {problem['msg']}" if name else f"the body: {problem['msg']}"
    return Refusal(422, message, "invalid_value", param=name or None)


def seconds_until_room() -> int:
    """Return after how many seconds the queues will be about half empty, judging by the speed so far; 1 to 60."""
    waits = [1.0]
    for counters in runtime.statistics().values():
        if counters.tokens and counters.computing_seconds:
            waits.append(counters.queued_tokens * counters.computing_seconds / counters.tokens / 2)
    return min(60, max(1, round(max(waits))))


def answer_of(refusal: Refusal, path: str, request_id: str) -> Response:
    """Return a refusal as the response that clients of this path expect."""
    tei_type, openai_type = _TYPES.get(refusal.status, ("Validation", "invalid_request_error"))
    body: dict[str, Any]
    if path.startswith("/v2/"):
        body = {"id": request_id, "message": refusal.message}
    elif path.startswith("/v1/"):
        details = {"message": refusal.message, "type": openai_type, "code": refusal.code, "param": refusal.param}
        body = {"error": details, "message": refusal.message}
    else:
        body = {"error": refusal.message, "error_type": tei_type}
    return Response(orjson.dumps(body), refusal.status, refusal.headers, "application/json")
