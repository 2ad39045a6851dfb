"""`GET /` returns the page without a key, and the browser may run only what is in it."""

import base64
import hashlib
import re

from servers import app_server


def test_the_page_needs_no_key_and_allows_only_its_own_script():
    with app_server(api_keys=["key"]) as served:
        answer = served.api.get("/")
        assert served.api.head("/").status_code == 200
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
