"""The address of a server, as users write it in place of a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, quote, urlsplit

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_choice

DialectName = Literal["bge", "tei", "openai"]
#: Seconds to wait for one answer, and in total for the retries of one request.
_TIMEOUT = 60.0


def is_url(model: str | os.PathLike[str]) -> bool:
    """Return whether a model is the URL of a server rather than a name or a folder."""
    return isinstance(model, str) and model.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Address:
    """A server, and what its URL says about using it: "http://host:8080?model=bge-m3&dialect=tei&timeout=10".

    Attributes:
        base: The URL without parameters and without a slash at its end.
        model: The model to use on a server that has several; None if the server has one.
        dialect: "bge", "tei" or "openai"; None to find out.
        timeout: Maximum seconds to wait for one answer, and in total for the retries of one request.
    """

    base: str
    model: str | None = None
    dialect: DialectName | None = None
    timeout: float = _TIMEOUT

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the parts of a URL.

        Raises:
            InvalidInputError: It is not a valid URL of a server.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise _invalid(f"the server's URL is invalid ({error})", "write http://HOST:PORT") from None
        if parts.username is not None or parts.password is not None:
            raise _invalid("the server's URL contains a user or a password", "pass the key as api_key=")
        if not parts.hostname or parts.fragment:
            raise _invalid(f"{url!r} is not the URL of a server", "write http://HOST:PORT")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := given.keys() - {"model", "dialect", "timeout"}:
            raise _invalid(
                f"the server's URL has unknown parameters: {', '.join(sorted(unknown))}",
                "use only model, dialect and timeout; pass a key as api_key=",
            )
        dialect = given.get("dialect")
        if dialect is not None:
            check_choice(dialect, "dialect", get_args(DialectName))
        base = f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        timeout = _seconds(given["timeout"]) if "timeout" in given else _TIMEOUT
        return cls(base, given.get("model") or None, dialect, timeout)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The URL that leads to the same model."""
        given = {"model": self.model, "dialect": self.dialect}
        if self.timeout != _TIMEOUT:
            given["timeout"] = f"{self.timeout:g}"
        query = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in given.items() if value)
        return f"{self.base}?{query}" if query else self.base


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise _invalid(f"timeout={text!r} in the server's URL must be a number of seconds above 0", "write timeout=30")
    return seconds


def _invalid(finding: str, advice: str) -> InvalidInputError:
    return InvalidInputError(finding, argument="model", advice=advice)
