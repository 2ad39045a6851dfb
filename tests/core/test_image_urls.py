"""Images are fetched from URLs only if that is allowed, only from where it is allowed, and within limits."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import BASE, ORACLE, assert_close

from bge_integrations import load_embedder
from bge_integrations.core import image_urls
from bge_integrations.core.image_urls import FetchError, ImageUrl
from bge_integrations.errors import InvalidInputError

VISION = ORACLE / "vision"
CLIP = VISION / "checkpoints" / "bge-vl-clip"
SHAPES = VISION / "images" / "shapes.png"
#: {path of the test server: what it redirects to}
REDIRECTS = {
    "/near": "shapes.png",
    "/loop": "/loop",
    "/file": f"file://{SHAPES}",
    "/ftp": "ftp://127.0.0.1/a.png",
    "/nowhere": "",
    "/user": "//me:secret@127.0.0.1/shapes.png",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self)
        target = REDIRECTS.get(self.path)
        self.send_response(302 if self.path in REDIRECTS else 200 if self.path != "/missing" else 404)
        if target:
            self.send_header("Location", target)
        if self.path == "/compressed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            if self.path == "/endless":
                while not self.server.stopped.is_set():
                    self.wfile.write(bytes(1 << 16))
            elif self.path == "/slow":
                self.wfile.write(b"\x89PNG")
                self.server.stopped.wait(60)
            elif self.path not in REDIRECTS:
                self.wfile.write(SHAPES.read_bytes())
        except OSError:  # the client has left
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.stopped = [], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,)).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", port=server.server_port, seen=server.seen)
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def embedder():
    with load_embedder(CLIP, image_urls="any") as embedder:
        yield embedder


def test_a_url_gives_the_vector_of_its_image(embedder, site):
    inputs = [{"image": SHAPES}, {"image": f"{site.url}/shapes.png"}, {"image": f"{site.url}/near", "text": "a"}]
    found = embedder.encode([*inputs, {"image": SHAPES, "text": "a"}, inputs[1]]).dense
    assert_close(found[1], found[0])
    assert_close(found[2], found[3])
    assert_close(found[4], found[0])
    assert sorted(request.path for request in site.seen) == ["/near", "/shapes.png", "/shapes.png"]
    sent = {name.lower() for request in site.seen for name in request.headers}
    assert sent == {"host", "accept", "accept-encoding", "connection", "user-agent"}


async def test_an_event_loop_fetches_them_too(embedder, site):
    output = await embedder.aencode([{"image": f"{site.url}/shapes.png"}, {"image": SHAPES}])
    assert_close(output.dense[0], output.dense[1])


@pytest.mark.parametrize("url", ["HTTP://127.0.0.1/a.png", "https://127.0.0.1/a.png"])
def test_urls_are_refused_unless_they_are_allowed(url):
    with load_embedder(CLIP) as closed, pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        closed.encode(["fine", {"image": url}])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"],
)
def test_the_internet_does_not_include_this_machine(host, site):
    with pytest.raises(FetchError):
        ImageUrl(f"http://{host}:{site.port}/shapes.png", "public").fetch()
    assert not site.seen


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("172.31.0.1", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("fe80::1%2", False),
        ("fd00:ec2::254", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert image_urls._is_public(address) is public


@pytest.mark.parametrize("path", ["/loop", "/file", "/ftp", "/nowhere", "/user", "/missing", "/compressed", "/endless"])
def test_what_is_not_an_image_within_limits_is_refused(embedder, site, monkeypatch, path):
    monkeypatch.setattr(image_urls, "MAX_BYTES", 1 << 20)
    with pytest.raises(InvalidInputError) as caught:
        embedder.encode(["fine", {"image": site.url + path}])
    assert "texts[1]" in str(caught.value)
    assert f"{site.url}{path}" in str(caught.value)
    assert len(site.seen) == (6 if path == "/loop" else 1)


def test_a_slow_server_is_left(embedder, site, monkeypatch):
    monkeypatch.setattr(image_urls, "MAX_SECONDS", 0.2)
    with pytest.raises(InvalidInputError, match=r"texts\[0\]"):
        embedder.encode([{"image": f"{site.url}/slow"}])


def test_a_host_on_the_internet_can_not_lead_into_a_private_network(site, monkeypatch):
    for scope in ("any", "public"):
        answers = iter([True, False])
        monkeypatch.setattr(image_urls, "_is_public", lambda address, answers=answers: next(answers))
        with pytest.raises(FetchError):
            ImageUrl(f"{site.url}/near", scope).fetch()
    assert [request.path for request in site.seen] == ["/near", "/near"]


def test_a_host_is_resolved_once_and_all_its_addresses_are_checked(site, monkeypatch):
    resolved = []
    resolve = socket.getaddrinfo

    def fake(host, *arguments, **options):
        if host != "pictures.test":
            return resolve(host, *arguments, **options)
        resolved.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, site.port)) for address in ("127.0.0.1", "8.8.8.8")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    image = f"http://pictures.test:{site.port}/shapes.png"
    with pytest.raises(FetchError):
        ImageUrl(image, "public").fetch()
    assert (len(resolved), len(site.seen)) == (1, 0)
    assert ImageUrl(image, "any").fetch() == SHAPES.read_bytes()
    assert (len(resolved), len(site.seen)) == (2, 1)
    assert site.seen[0].headers["Host"] == f"pictures.test:{site.port}"


@pytest.mark.parametrize("url", ["http://", "http://me:secret@127.0.0.1/a.png", "http://[::1", "https://a:b/c.png"])
def test_malformed_urls_are_refused(embedder, url):
    with pytest.raises(InvalidInputError, match=r"texts\[0\]") as caught:
        embedder.encode([{"image": url}])
    assert "secret" not in str(caught.value)


def test_arguments_that_do_not_fit_are_refused():
    for model, value in ((CLIP, True), (CLIP, "all"), (BASE, "public")):
        with pytest.raises(InvalidInputError) as caught:
            load_embedder(model, image_urls=value)
        assert caught.value.argument == "image_urls"
