"""Images given as URLs. They are fetched only if the caller allows it, and only from the addresses that it allows.

An application may pass on URLs that its users or documents chose. Fetching must not become a way into the network of
the machine (server-side request forgery), or a way to keep it busy:

- A host is resolved once, all of its addresses are checked, and the connection goes to one that was checked. So a name
  that resolves to another address later gains nothing.
- Each redirect is checked like the first URL.
- Time, size and the number of redirects are limited. A compressed answer is refused.
- Nothing is sent along: no cookies, no credentials, no environment's proxy.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import bge_integrations
from bge_integrations import network_loop
from bge_integrations.errors import InvalidInputError
from bge_integrations.optional import import_library

if TYPE_CHECKING:
    import httpx

#: Where images may be fetched from: "public" addresses of the internet, or "any" address, private networks included.
UrlScope = Literal["public", "any"]
#: Maximum bytes of a fetched image.
MAX_BYTES = 32 << 20
#: Maximum seconds of a fetch, redirects included.
MAX_SECONDS = 30.0
#: Seconds to wait for a connection, before the host's next address is tried.
_CONNECT_SECONDS = 5.0
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
#: The IPv6 addresses that are in use on the internet, and two ranges that stand for IPv4 addresses.
_IPV6_INTERNET = ipaddress.IPv6Network("2000::/3")
_NAT64, _6TO4 = ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("2002::/16")


class FetchError(Exception):
    """An image could not be fetched, or its URL is not allowed."""


@dataclass(frozen=True)
class ImageUrl:
    """The URL of an image that may be fetched.

    Attributes:
        url: Its http or https URL.
        scope: Where it may lead.
    """

    url: str
    scope: UrlScope

    def fetch(self) -> bytes:
        """Return the image's bytes. Don't call it on an event loop.

        Raises:
            FetchError: It can't be fetched, or leads to where it may not.
        """
        return network_loop.run(_fetch(self))


def is_url(image: object) -> bool:
    """Return whether an image is given as an http or https URL."""
    return isinstance(image, str) and image[:8].lower().startswith(("http://", "https://"))


def checked_url(url: str, scope: UrlScope, name: str) -> ImageUrl:
    """Check a URL without using the network.

    Raises:
        InvalidInputError: It is malformed, or contains credentials; the message begins with `name`.
    """
    httpx = import_library("httpx", "vision", "fetching images")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInputError(f"{name} is not a valid URL ({error})") from None
    if not parsed.host or parsed.userinfo:
        raise InvalidInputError(f"{name} must be a URL with a host and without a user name")
    return ImageUrl(url, scope)


async def _fetch(image: ImageUrl) -> bytes:
    import httpx

    headers = {"accept": "image/*", "accept-encoding": "identity"}
    headers["user-agent"] = f"bge-integrations/{bge_integrations.__version__}"
    try:
        async with (
            asyncio.timeout(MAX_SECONDS),
            httpx.AsyncClient(verify=_certificates(), trust_env=False, headers=headers, timeout=MAX_SECONDS) as client,
        ):
            url, allows_private = httpx.URL(image.url), image.scope == "any"
            for _ in range(_MAX_REDIRECTS + 1):
                addresses = await _addresses(url)
                is_private = not all(map(_is_public, addresses))
                if is_private and not allows_private:
                    raise FetchError(f"{url.host} is not an address of the internet")
                allows_private = is_private  # a host on the internet can't lead into a private network
                response = await _get(client, url, addresses)
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    return await _body(response)
                await response.aclose()
                url = _target(url, response)
            raise FetchError(f"it redirects more than {_MAX_REDIRECTS} times")
    except TimeoutError:
        raise FetchError(f"it took more than {MAX_SECONDS:g} seconds") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise FetchError(str(error) or type(error).__name__) from error


@cache
def _certificates() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


async def _addresses(url: httpx.URL) -> list[str]:
    """Return the IP addresses of a URL's host."""
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_public(address: str) -> bool:
    """Return whether an IP address belongs to the internet, and not to this machine or a private network."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _IPV6_INTERNET or ip in _6TO4:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


async def _get(client: httpx.AsyncClient, url: httpx.URL, addresses: list[str]) -> httpx.Response:
    """Return the answer of the first of the host's addresses that accepts a connection; its body is not read yet."""
    import httpx

    failed: httpx.HTTPError | None = None
    for address in addresses:
        request = client.build_request(
            "GET",
            url.copy_with(host=address),
            headers={"host": url.netloc.decode("ascii")},
            # the name that the certificate must have
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
            timeout=httpx.Timeout(MAX_SECONDS, connect=_CONNECT_SECONDS),
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failed = error
    raise failed or FetchError(f"{url.host} has no address")


def _target(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    """Return the URL to which an answer redirects."""
    target = url.join(response.headers["location"])
    if target.scheme != "https" and target.scheme != url.scheme:
        raise FetchError(f"it redirects from {url.scheme} to {target.scheme}")
    if not target.host or target.userinfo:
        raise FetchError("it redirects to a URL without a host, or with a user name")
    return target


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != 200:
        raise FetchError(f"the server answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FetchError("the server sent it compressed")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_BYTES:
            raise FetchError(f"it has more than {MAX_BYTES} bytes")
    return bytes(body)
