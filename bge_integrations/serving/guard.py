"""What a request must pass before a route sees it: its key, the limits of size, number and time, and a client that is
still there."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from bge_integrations.serving.refusals import Refusal, seconds_until_room

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from bge_integrations.serving.exchange import Exchange
    from bge_integrations.serving.service import Service

#: Paths that need no key and count towards no limit: probes, metrics, documentation, and the page.
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})


class GuardMiddleware:
    """Reads each request's body within the limits, and cancels the route when the client leaves or time is up."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._settings = service.settings
        self._running: set[object] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["state"]["exchange"]
        if exchange.path in OPEN_PATHS or (exchange.path == "/" and scope["method"] in ("GET", "HEAD")):
            await self._app(scope, receive, send)
            return
        self._check_key(Headers(scope=scope))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.request_timeout
        try:
            async with asyncio.timeout_at(deadline):
                body = await self._read_body(scope, receive)
        except TimeoutError:
            raise Refusal(408, "the request's body took too long to arrive", "timeout") from None
        if body is None:
            return  # the client has left
        if len(self._running) >= self._settings.max_concurrent_requests:
            raise Refusal(
                429,
                f"{len(self._running)} requests are in progress, which is the limit; try again later",
                "overloaded",
                retry_after=seconds_until_room(),
            )
        ticket = object()
        self._running.add(ticket)

        async def send_and_release(message: Message) -> None:
            self._running.discard(ticket)  # before the client has the answer and can send its next request
            await send(message)

        try:
            await self._run(scope, _receive_once(body, receive), receive, send_and_release, deadline - loop.time())
        finally:
            self._running.discard(ticket)

    def _check_key(self, headers: Headers) -> None:
        keys = self._settings.api_keys
        if not keys:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        # all keys are compared, and each in constant time, so that the time says nothing
        fitting = [hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()) for key in keys]
        if not any(fitting):
            finding = "the API key is wrong" if given else "an API key is needed"
            raise Refusal(
                401,
                f"{finding}; send the header Authorization: Bearer KEY",
                "invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client left. A body above the limit is refused as soon as that is known."""
        limit = self._settings.payload_limit
        announced = Headers(scope=scope).get("content-length", "")
        too_large = Refusal(413, f"the body is larger than {limit} bytes, which is the limit", "payload_too_large")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_large
            if not message.get("more_body"):
                return bytes(body)

    async def _run(self, scope: Scope, receive_body: Receive, receive: Receive, send: Send, seconds: float) -> None:
        """Run the application until it has answered, the client has left, or the time is up."""
        work = asyncio.ensure_future(self._app(scope, receive_body, send))
        leaving = asyncio.ensure_future(_until_client_leaves(receive))
        try:
            await asyncio.wait({work, leaving}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif not leaving.done():
                raise Refusal(504, f"not done within {self._settings.request_timeout:g} seconds", "timeout")
        finally:
            for task in (work, leaving):
                if not task.done():
                    task.cancel()
                    await asyncio.wait([task])


async def _until_client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _receive_once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns the whole body, and then what `receive` returns."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body
