"""`GET /`: a page to search an index, or texts that are pasted in, and to see where each score comes from."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from fastapi import APIRouter, Response

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> Response:
    """Return the page. It loads nothing else, and only its own script and style may run."""
    content, policy = _page()
    return Response(content, media_type="text/html", headers={"Content-Security-Policy": policy})


@cache
def _page() -> tuple[str, str]:
    """Return the page and its content security policy, which names its script and its style by their hashes."""
    content = (resources.files(__package__) / "page.html").read_text("utf-8")
    sources = []
    for tag in ("script", "style"):
        for block in re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
            sources.append(f"{tag}-src 'sha256-{digest}'")
    allowed = ["default-src 'none'", *sources, "connect-src 'self'", "img-src data:"]
    return content, "; ".join([*allowed, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
