"""What operators rely on: keys, limits, clients that leave, draining, logs, metrics, models that come and go."""

import asyncio
import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import openai
import pytest
from conftest import BASE, M3, TESTS, assert_close, wait_until
from fastapi import FastAPI
from local_hub import local_hub
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from servers import app_server, held_device, server_process, wait_until_ready

from bge_integrations import load_embedder
from bge_integrations.core import runtime
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.checkpoint import weight_bytes
from bge_integrations.serving import ServerSettings, create_app
from bge_integrations.serving.pool import ModelPool

TEXT = "Pandas eat bamboo."


@pytest.fixture(scope="module", autouse=True)
def keep_the_model(pocket):
    """Keep the pocket model in memory, so that each application finds it there."""


def embed(api, *texts, **headers):
    return api.post("/embed", json={"inputs": list(texts) or TEXT}, headers=headers)


def metric(api, name):
    lines = api.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_64_clients_at_once(server, pocket):
    texts = [f"panda number {i}" for i in range(64)]

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return await asyncio.gather(*(client.post("/embed", json={"inputs": text}) for text in texts))

    answers = asyncio.run(ask_all())
    assert_close(np.concatenate([answer.json() for answer in answers]), pocket.encode(texts).dense)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 64


def test_keys():
    with app_server(api_keys=["first", "second"]) as served:
        wait_until_ready(served)
        assert served.api.get("/health").status_code == served.api.get("/ready").status_code == 200
        assert served.api.get("/metrics").status_code == 200
        for header in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic first"},
            {"authorization": b"Bearer \xe9"},
        ):
            answer = embed(served.api, **header)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert served.api.get("/info").status_code == 401
        assert embed(served.api, authorization="Bearer first").status_code == 200
        assert embed(served.api, authorization="bearer second").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong").embeddings.create(model="pocket", input=TEXT)
        assert "first" not in repr(served.app.state.service.settings)


def send_raw(url, head, body=b""):
    """Send bytes, and return the connection."""
    connection = socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60)
    connection.sendall(head + b"\r\n\r\n" + body)
    return connection


POST = b"POST /embed HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"


def test_a_body_that_is_too_large_is_refused_before_it_is_read():
    with app_server(payload_limit=1000) as served:
        wait_until_ready(served)
        assert embed(served.api, "x" * 1000).status_code == 413
        announced = send_raw(served.url, POST + b"Content-Length: 1000000")
        assert announced.recv(100).startswith(b"HTTP/1.1 413")
        chunked = send_raw(served.url, POST + b"Transfer-Encoding: chunked", b"3e9\r\n" + b" " * 1001 + b"\r\n")
        assert chunked.recv(100).startswith(b"HTTP/1.1 413")  # though the last chunk never comes
        assert embed(served.api).status_code == 200


def test_a_slow_client_does_not_wait_for_ever_and_holds_up_no_one():
    with app_server(request_timeout=1.0) as served:
        wait_until_ready(served)
        slow = send_raw(served.url, POST + b"Content-Length: 100", b'{"inputs"')
        assert embed(served.api).status_code == 200
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_a_request_that_takes_too_long_is_given_up():
    with app_server(request_timeout=0.5) as served, held_device() as gate:
        wait_until_ready(served)
        assert embed(served.api, "one").status_code == 504
        gate.open.set()
        wait_until(lambda: embed(served.api, "two").status_code == 200)


def test_the_work_of_a_client_that_leaves_is_dropped():
    with app_server(max_client_batch_size=600) as served, held_device() as gate:
        wait_until_ready(served)
        body = json.dumps({"inputs": [f"text number {i} of many" for i in range(600)]}).encode()
        connection = send_raw(served.url, POST + b"Content-Length: %d" % len(body), body)
        assert gate.is_held.wait(60)
        connection.close()
        wait_until(lambda: metric(served.api, 'te_request_failure{err="client_left"}') == 1)
        gate.open.set()
        assert embed(served.api).status_code == 200
        assert sum(gate.computed) < 600


def test_a_full_queue_refuses_requests_and_says_when_to_come_back():
    with app_server(max_queued_tokens=20) as served, held_device() as gate, ThreadPoolExecutor() as pool:
        wait_until_ready(served)
        running = pool.submit(embed, served.api, "running")
        assert gate.is_held.wait(60)
        waiting = pool.submit(embed, served.api, "waiting " * 20)
        wait_until(lambda: metric(served.api, "te_queue_size") == 1)
        refused = embed(served.api, "refused " * 20)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error_type"] == "Overloaded"
        gate.open.set()
        assert running.result().status_code == waiting.result().status_code == 200


def test_too_many_requests_at_once_are_refused():
    with app_server(max_concurrent_requests=1) as served, held_device() as gate, ThreadPoolExecutor() as pool:
        wait_until_ready(served)
        running = pool.submit(embed, served.api, "running")
        assert gate.is_held.wait(60)
        assert embed(served.api).status_code == 429
        assert served.api.get("/health").status_code == 200
        gate.open.set()
        assert running.result().status_code == 200
        assert embed(served.api).status_code == 200


def test_a_model_that_fails_is_424_without_its_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError(f"broken at {TESTS}")

    with app_server() as served:
        wait_until_ready(served)
        monkeypatch.setattr("bge_integrations.core.runner.ModelRunner.run", fail)
        answer = embed(served.api, "a text that fails")
        assert answer.status_code == 424
        assert answer.json()["error_type"] == "Backend"
        assert str(TESTS) not in answer.text
        wait_until(lambda: metric(served.api, 'te_request_failure{err="model_failed"}') == 1)


def test_the_process_policy_is_restored():
    before = runtime.policy
    with app_server(max_queued_tokens=1000, max_batch_tokens=77) as served:
        wait_until_ready(served)
        assert (runtime.policy.when_full, runtime.policy.max_queued_tokens) == ("refuse", 1000)
        assert runtime.policy.cpu_batch_tokens == 77
    assert runtime.policy == before


def test_metrics_and_headers(server):
    with httpx.Client(base_url=server.url, timeout=60) as api:
        before = metric(api, 'te_request_count{method="batch"}')
        answer = embed(api, "one", "two", **{"x-request-id": "my-id"})
        assert answer.headers["x-request-id"] == "my-id"
        assert int(answer.headers["x-compute-characters"]) == 6
        assert int(answer.headers["x-compute-tokens"]) >= 6
        for name in ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
            assert int(answer.headers[name]) >= 0
        wait_until(lambda: metric(api, 'te_request_count{method="batch"}') == before + 1)
        assert metric(api, "te_request_duration_count") > 0
        assert metric(api, "te_batch_next_tokens_sum") > 0
        assert embed(api, **{"x-request-id": "bad\tid"}).headers["x-request-id"] != "bad\tid"


def test_cors():
    with app_server(cors_allow_origins=["https://example.org"], api_keys=["key"]) as served:
        preflight = {"origin": "https://example.org", "access-control-request-method": "POST"}
        allowed = served.api.options("/embed", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        other = served.api.options("/embed", headers={**preflight, "origin": "https://other.org"})
        assert "access-control-allow-origin" not in other.headers


def test_models_are_loaded_on_demand_and_unloaded_to_make_room():
    room = weight_bytes(Path(M3)) + weight_bytes(Path(BASE)) - 1
    with app_server(models=[M3, BASE], preload=False, max_model_memory=room) as served:
        pool = served.app.state.service.models
        wait_until_ready(served)

        def loaded_after(name):
            answer = served.api.post("/v1/embeddings", json={"model": name, "input": TEXT})
            assert answer.status_code == 200
            return [model.id for model in pool.models if model.model is not None]

        assert [model.model for model in pool.models] == [None, None]
        assert loaded_after("bge-base-en-v1.5") == ["bge-base-en-v1.5"]
        assert loaded_after("bge-m3") == ["bge-m3"]
        assert loaded_after("bge-base-en-v1.5") == ["bge-base-en-v1.5"]


def test_a_model_in_use_is_not_unloaded():
    room = weight_bytes(Path(M3)) + weight_bytes(Path(BASE)) - 1
    with (
        app_server(models=[M3, BASE], preload=False, max_model_memory=room) as served,
        held_device() as gate,
        ThreadPoolExecutor() as threads,
    ):
        wait_until_ready(served)
        running = threads.submit(embed, served.api)
        assert gate.is_held.wait(60)
        refused = served.api.post("/v1/embeddings", json={"model": "bge-base-en-v1.5", "input": TEXT})
        assert refused.status_code == 503
        gate.open.set()
        assert running.result().status_code == 200


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector, which keeps the names of spans."""

    def __init__(self):
        self.names = []

    def Export(self, request, context):
        scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        self.names += [span.name for scope in scopes for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_traces():
    collector, grpc_server = Collector(), grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    with app_server(otlp_endpoint=f"http://127.0.0.1:{port}") as served:
        wait_until_ready(served)
        assert served.api.get("/health").status_code == embed(served.api).status_code == 200
    grpc_server.stop(None)
    assert "POST /embed" in collector.names
    assert "GET /health" not in collector.names


def test_two_names_of_the_same_weights_share_them(m3):
    with app_server(models=[M3], served_model_names=["a", "b"]) as served:
        wait_until_ready(served)
        names = [model["id"] for model in served.api.get("/v1/models").json()["data"]]
        assert names == ["a", "b", "bge-m3"]
        vectors = [
            served.api.post("/v1/embeddings", json={"model": name, "input": TEXT}).json()["data"][0]["embedding"]
            for name in names
        ]
        assert_close(vectors, np.repeat(m3.encode([TEXT]).dense, 3, axis=0))


def test_a_relative_folder_is_named_by_its_last_part(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    pool = ModelPool(ServerSettings(models=["models/mine", "someone/mine-too"]))
    assert [model.names for model in pool.models] == [["mine"], ["someone/mine-too", "mine-too"]]


def test_requests_before_the_model_is_loaded_are_503(monkeypatch):
    loading = threading.Event()

    def load_slowly(*arguments, **settings):
        assert loading.wait(60)
        return load_embedder(*arguments, **settings)

    monkeypatch.setattr("bge_integrations.core.loading.load_embedder", load_slowly)
    with app_server() as served:
        assert served.api.get("/health").status_code == 200
        assert served.api.get("/ready").status_code == 503
        early = embed(served.api)
        assert early.status_code == 503
        assert int(early.headers["retry-after"]) >= 1
        loading.set()
        wait_until_ready(served)
        assert embed(served.api).status_code == 200


def test_an_application_can_be_mounted_in_another(pocket):
    outer = FastAPI()
    inner = create_app(ServerSettings(models=["pocket"]))
    outer.mount("/models", inner)
    with app_server(outer) as served:
        assert served.api.get("/models/health").status_code == 200
        wait_until(lambda: served.api.get("/models/ready").status_code == 200, 60)
        assert_close(served.api.post("/models/embed", json={"inputs": TEXT}).json(), pocket.encode([TEXT]).dense)
        assert "error" in served.api.post("/models/v1/embeddings", json={"input": []}).json()["error"]["type"]


def test_unix_socket_json_log_and_draining(tmp_path):
    path = tmp_path / "s"
    arguments = ["pocket", "--uds-path", str(path), "--json-output", "--max-client-batch-size", "600"]
    with server_process(tmp_path, *arguments, BGE_API_KEY="first second") as started:
        headers = {"authorization": "Bearer second"}
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://server", headers=headers, timeout=120) as api:
            wait_until(lambda: api.get("/ready").status_code == 200, 120)
            with ThreadPoolExecutor() as pool:
                running = pool.submit(embed, api, *[f"text number {i} " * 50 for i in range(100)])
                wait_until(lambda: metric(api, "te_queue_size") > 0, 60)
                started.process.send_signal(signal.SIGTERM)
                assert running.result().status_code == 200
        assert started.process.wait(60) == 0
        assert not path.exists()
        lines = [json.loads(line) for line in started.log.read_text("utf-8").splitlines()]
        logged = next(line for line in lines if line.get("path") == "/embed")
        assert logged["status"] == 200
        assert logged["tokens"] > 100
        assert logged["request_id"]
        assert not any("text number" in json.dumps(line) for line in lines)


def test_a_model_that_is_missing_ends_the_server(tmp_path):
    with server_process(tmp_path, str(tmp_path / "nothing"), "--port", "0") as started:
        assert started.process.wait(120) == 1
        assert "Traceback" not in started.log.read_text("utf-8")


def test_a_server_that_is_asked_to_stop_does_not_wait_for_a_download(tmp_path):
    environment = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    with (
        local_hub(Path(BASE)) as hub,
        server_process(tmp_path, "owner/endless", "--port", "0", HF_ENDPOINT=hub.url, **environment) as started,
    ):
        assert hub.requested.wait(60), started.log.read_text("utf-8")
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(60) == 0
        assert "Traceback" not in started.log.read_text("utf-8")


def test_two_models_with_one_name_are_refused():
    with pytest.raises(InvalidInputError):
        create_app(ServerSettings(models=["pocket", "pocket"]))
    create_app(ServerSettings(models=["pocket"], rerankers=["pocket"]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"models": "pocket"},
        {"models": ["pocket"], "payload_limit": 0},
        {"models": ["pocket"], "api_keys": [""]},
        {"models": ["pocket"], "default_prompt_name": "unknown"},
        {"models": ["pocket"], "request_timeout": 0},
        {"indexes": {"a/b": "folder"}},
    ],
)
def test_wrong_settings(settings):
    with pytest.raises(InvalidInputError):
        ServerSettings(**settings)
