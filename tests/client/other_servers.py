"""Small servers that speak the dialects of TEI and OpenAI with a real model behind them, and one that misbehaves."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: (status, headers, body) of an answer; a body that is not bytes is sent as JSON, and None cuts the connection.
Answer = tuple[int, dict[str, str], Any]


class _Http(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 resets connections if many threads connect at once


class Server:
    """A running server: its URL, and the requests it got as (path, body, headers)."""

    def __init__(self, http: _Http) -> None:
        self.url = f"http://127.0.0.1:{http.server_port}"
        self.requests: list[tuple[str, Any, dict[str, str]]] = []

    def bodies(self, path: str) -> list[Any]:
        return [body for each, body, _ in self.requests if each == path]


@contextmanager
def serve(answer: Callable[[str, Any, dict[str, str]], Answer]) -> Iterator[Server]:
    """Serve `answer(path, body, headers)` on a socket of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.path, body, headers))
            status, extra, content = answer(self.path, body, headers)
            sent = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **extra}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(1000 if content is None else len(sent)))
            self.end_headers()
            self.wfile.write(sent)
            self.close_connection = content is None

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    http = _Http(("127.0.0.1", 0), Handler)
    server = Server(http)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def tei(model: Any, model_type: dict[str, Any], name: str, max_batch: int = 4) -> Callable[..., Answer]:
    """Answer as TEI does, which knows nothing of queries and passages unless told by a prompt name."""

    def answer(path: str, body: Any, headers: dict[str, str]) -> Answer:
        if path == "/info":
            limits = {"max_client_batch_size": max_batch, "max_input_length": 16}
            return 200, {}, {"model_id": name, "model_sha": "abc", "model_type": model_type, **limits}
        inputs = body.get("inputs") or [f"{body['query']} {text}" for text in body["texts"]]
        if len(inputs) > max_batch:
            return 413, {}, {"error": "batch size > maximum", "error_type": "Validation"}
        if path == "/tokenize":
            return (
                200,
                {},
                [
                    [{"id": 1, "text": word, "special": False, "start": None, "stop": None} for word in text.split()]
                    for text in inputs
                ],
            )
        if not body["truncate"] and any(len(text.split()) > 16 for text in inputs):
            return 413, {}, {"error": "`inputs` must have less than 16 tokens", "error_type": "Validation"}
        if path == "/embed":
            return 200, {}, model.encode(inputs, on_truncate="ignore", normalize=body["normalize"]).dense.tolist()
        scores = model.score([(body["query"], text) for text in body["texts"]], normalize=not body["raw_scores"])
        ranked = sorted(enumerate(scores.tolist()), key=lambda pair: -pair[1])
        return 200, {}, [{"index": i, "score": score} for i, score in ranked]

    return answer


def openai(model: Any, names: list[str], prefix: str = "/v1", as_lists: bool = False) -> Callable[..., Answer]:
    """Answer as OpenAI does and as Cohere and Jina do."""

    def answer(path: str, body: Any, headers: dict[str, str]) -> Answer:
        if not path.startswith(prefix) or (prefix == "" and path.startswith("/v1")):
            return 404, {}, {"detail": "Not Found"}
        route = path.removeprefix(prefix)
        if route == "/models":
            return 200, {}, {"object": "list", "data": [{"id": name, "max_model_len": 512} for name in names]}
        if route not in ("/embeddings", "/rerank"):
            return 404, {}, {"detail": "Not Found"}
        if body["model"] not in names:
            return 404, {}, {"error": {"message": "no such model", "type": "not_found", "code": 404, "param": None}}
        if route == "/rerank":
            scores = model.score([(body["query"], text) for text in body["documents"]], normalize=True).tolist()
            ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
            return 200, {}, {"id": "1", "results": [{"index": i, "relevance_score": score} for i, score in ranked]}
        rows = list(model.encode(body["input"]).dense)
        wanted = [row.tolist() if as_lists else base64.b64encode(row.tobytes()).decode() for row in rows]
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(wanted)]
        return 200, {}, {"object": "list", "data": data[::-1], "model": body["model"]}

    return answer
