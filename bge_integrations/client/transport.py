"""Requests to a server: pooled connections, the key, retries, and errors that say what to do."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any, NoReturn

from bge_integrations import network_loop
from bge_integrations.errors import (
    BGEError,
    ClosedError,
    ComputationError,
    InvalidInputError,
    OverloadedError,
    ServerError,
    TextTooLongError,
)
from bge_integrations.optional import import_library

if TYPE_CHECKING:
    import httpx

    from bge_integrations.client.address import Address

#: The environment variable with the key, if `api_key=` is not given.
API_KEY = "BGE_API_KEY"
#: The only answers that are tried again: the server did not start the work.
_RETRIED = {429, 503}
#: Seconds before the first retry, and at most before a later one, unless the server says how long.
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 8.0
#: Minimum seconds before a retry, if the server says 0.
_SHORTEST_DELAY = 0.05
#: Seconds after which an idle connection is not used again: servers close theirs after 5.
_KEEP_ALIVE = 3.0
#: Maximum characters of a server's message that an error quotes.
_QUOTED = 300
_logger = logging.getLogger(__name__)


class Transport:
    """The connections to one server. They belong to the network loop; a forked child opens its own.

    Args:
        address: The server.
        api_key: Sent as a bearer token; None takes the environment variable BGE_API_KEY, if it is set.
    """

    def __init__(self, address: Address, api_key: str | None) -> None:
        self._httpx = import_library("httpx", "client", "a server's URL as a model")
        self.address = address
        self._key = _checked_key(api_key)
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inherited: list[httpx.AsyncClient] = []
        self._running = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"Transport({self.address.base!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection to a server can't be pickled or copied")

    def check_open(self) -> None:
        """Raise ClosedError after `close()`."""
        if self._closed:
            raise ClosedError("the client was closed; load the model again")

    def close(self) -> None:
        """Refuse new requests, and close the connections when the running ones have finished."""
        if not self._closed:
            self._closed = True
            network_loop.submit(self._close_if_idle())

    async def get(self, path: str) -> Any:
        """Return the JSON that the server answers to GET."""
        return self.json(await self._send("GET", path, None, None))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that the server answers to POST."""
        return self.json(await self._send("POST", path, body, None))

    async def post_for_bytes(self, path: str, body: dict[str, Any], accept: str) -> bytes:
        """Return the body, in the media type `accept`, that the server answers to POST."""
        response = await self._send("POST", path, body, accept)
        if response.headers.get("content-type", "").partition(";")[0] != accept:
            raise self.unexpected(f"it answered with {response.headers.get('content-type')}, not {accept}")
        return response.content

    def json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise self.unexpected("its answer is not JSON") from None

    def unexpected(self, finding: str) -> ServerError:
        """Return the error for an answer that does not fit the request."""
        return ServerError(
            f"{self.address.base}: {finding}", advice="check that the URL is the server's, and the server's version"
        )

    async def _send(self, method: str, path: str, body: dict[str, Any] | None, accept: str | None) -> httpx.Response:
        """Send a request, again while the server asks to wait, and return its answer."""
        self._running += 1
        try:
            deadline, delay = time.monotonic() + self.address.timeout, _FIRST_DELAY
            while True:
                response = await self._send_once(method, path, body, accept)
                if response.is_success:
                    return response
                wait = _retry_after(response)
                wait = delay * random.uniform(0.5, 1.0) if wait is None else max(wait, _SHORTEST_DELAY)
                if response.status_code not in _RETRIED or time.monotonic() + wait > deadline:
                    raise self._error(response)
                _logger.info("%s answered %d; trying again in %.1f s", self.address.base, response.status_code, wait)
                await asyncio.sleep(wait)
                delay = min(2 * delay, _LONGEST_DELAY)
        finally:
            self._running -= 1
            if self._closed:
                await self._close_if_idle()

    async def _send_once(
        self, method: str, path: str, body: dict[str, Any] | None, accept: str | None
    ) -> httpx.Response:
        headers = {"Accept": accept} if accept else None
        try:
            async with asyncio.timeout(self.address.timeout):
                url = self.address.base + path
                return await self._connections().request(method, url, json=body, headers=headers)
        except (TimeoutError, self._httpx.TimeoutException) as error:
            raise ServerError(
                f"{self.address.base} did not answer within {self.address.timeout:g} s",
                advice="check the server, or allow more time with ?timeout=SECONDS in its URL",
            ) from error
        except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
            raise ServerError(
                f"{self.address.base} could not be reached or broke off ({self._without_key(str(error))})",
                advice="check the URL and that the server runs",
            ) from error

    def _connections(self) -> httpx.AsyncClient:
        """Return the client of the running loop: a new one on the first call and after a fork."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            if self._client is not None:
                self._inherited.append(self._client)  # not closed: its sockets are the parent process's too
                self._running = 1
            self._loop = loop
            self._client = self._httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
                timeout=self.address.timeout,
                limits=self._httpx.Limits(keepalive_expiry=_KEEP_ALIVE),
            )
        return self._client

    async def _close_if_idle(self) -> None:
        if self._running == 0 and self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.aclose()

    def _error(self, response: httpx.Response) -> BGEError:
        """Return the error for an answer that is not a success."""
        base, status, message = self.address.base, response.status_code, self._message(response)
        if status in (401, 403):
            return InvalidInputError(
                f"{base} refused the API key" if self._key else f"{base} requires an API key",
                argument="api_key",
                advice=f"pass the server's key as api_key=, or set the environment variable {API_KEY}",
            )
        if status == 429:
            return OverloadedError(f"{base} is overloaded ({message})", advice="send less at a time, or try later")
        if status == 503:
            advice = "wait until it has loaded its models"
            return ServerError(f"{base} is not ready ({message})", advice=advice, status=status)
        if self._code(response) == "context_length_exceeded":
            advice = "split the text, or allow truncation with on_truncate='warn'"
            return TextTooLongError(f"{base} refused the request: {message}", advice=advice)
        if status in (400, 413, 422):
            return InvalidInputError(f"{base} refused the request ({status}): {message}")
        if status == 424:
            return ComputationError(f"the model on {base} failed: {message}")
        advice = "check the URL, the model and the server's log"
        return ServerError(f"{base} answered {status}: {message}", advice=advice, status=status)

    def _message(self, response: httpx.Response) -> str:
        """Return the message in an error's body: {"error": …}, {"error": {"message": …}} or {"detail": …}."""
        try:
            found = response.json()
        except ValueError:
            found = response.text
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and key in found:
                found = found[key]
        return self._without_key(str(found))[:_QUOTED].strip() or response.reason_phrase

    def _code(self, response: httpx.Response) -> str | None:
        """Return the code in an error's body in OpenAI's dialect."""
        try:
            code: str | None = response.json()["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return None
        return code

    def _without_key(self, message: str) -> str:
        return message.replace(self._key, "***") if self._key else message


def _checked_key(api_key: Any) -> str:
    """Return the key to send, or "" for none.

    Raises:
        InvalidInputError: It is not a str, or can't be sent in a header. The message does not quote it.
    """
    reveal = getattr(api_key, "get_secret_value", None)  # pydantic's SecretStr, which adapters keep
    if api_key is None:  # the server's variable may have several keys, separated by spaces
        return _checked_key(os.environ.get(API_KEY, "").partition(" ")[0])
    key = reveal() if reveal else api_key
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InvalidInputError("the API key must be printable ASCII without spaces around it", argument="api_key")
    return key


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that an answer asks to wait; None if it does not say, or not understandably."""
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None
    return max(0.0, seconds if value[:1].isdigit() else seconds - time.time())
