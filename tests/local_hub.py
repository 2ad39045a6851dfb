"""A model hub on this machine: it serves one checkpoint under several names, and each name has its own fault."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40
#: The status that the hub answers with for models of these names, and its own code for the error.
STATUSES = {"private": (401, "RepoNotFound"), "missing": (404, "RepoNotFound"), "gated": (403, "GatedRepo")}
STATUSES |= {"busy": (429, ""), "broken": (500, "")}


class LocalHub(ThreadingHTTPServer):
    """The hub. Besides `STATUSES`, it has these models:

    - owner/whole: nothing is wrong with it.
    - owner/cut: each answer with weights breaks off halfway.
    - owner/cut-once: only the first one does.
    - owner/endless: its weights never end.
    - owner/silent: it never answers.

    Attributes:
        requested: Set when weights are requested.
        is_over: Set when the hub shuts down, which ends answers that are still being written.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.requested, self.is_over = threading.Event(), threading.Event()
        self.was_cut = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def local_hub(folder: Path) -> Iterator[LocalHub]:
    """Run a hub that serves the checkpoint in a folder; its URL is for `HF_ENDPOINT`."""
    with LocalHub(folder) as hub:
        serving = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield hub
        finally:
            hub.is_over.set()
            hub.shutdown()
            serving.join()


class _Answer(BaseHTTPRequestHandler):
    server: LocalHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = re.search(r"owner/([\w-]+)", path)
        if name is None:
            self._send(b"{}", 404)
        elif name[1] in STATUSES:
            status, code = STATUSES[name[1]]
            self._send(b"{}", status, {"X-Error-Code": code} if code else {})
        elif name[1] == "silent":
            self.server.is_over.wait()
        elif "/resolve/" in path:
            self._send_file(path.rpartition("/")[2], name[1])
        elif "/tree/" in path:
            self._send_json([{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in self._files()])
        else:
            siblings = [{"rfilename": n} for n, _ in self._files()]
            self._send_json({"id": f"owner/{name[1]}", "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET

    def _files(self) -> list[tuple[str, bytes]]:
        return sorted(self.server.files.items())

    def _send_file(self, name: str, model: str) -> None:
        body = self.server.files[name]
        is_weights = name.endswith(".safetensors") and self.command == "GET"
        start = int(re.findall(r"\d+", self.headers.get("Range", "0"))[0])
        headers = {"Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        headers["ETag"] = f'"{name}"'  # the cache stores files by this
        self._start(206 if start else 200, len(body) - start, headers)
        if is_weights:
            self.server.requested.set()
        with suppress(ConnectionError):
            if is_weights and model == "endless":
                while not self.server.is_over.wait(0.05):
                    self.wfile.write(b"0")
            elif is_weights and (model == "cut" or (model == "cut-once" and not self.server.was_cut)):
                self.server.was_cut = True
                self.wfile.write(body[start : len(body) // 2])
                self.close_connection = True
            elif self.command == "GET":
                self.wfile.write(body[start:])

    def _send_json(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, body: bytes, status: int, headers: dict[str, str] | None = None) -> None:
        self._start(status, len(body), headers or {})
        if self.command == "GET":
            self.wfile.write(body)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
