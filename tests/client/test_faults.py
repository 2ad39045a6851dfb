"""What goes wrong between client and server: waiting, giving up, broken answers, keys, forks, cancelling, closing."""

import asyncio
import dataclasses
import logging
import multiprocessing
import pickle
import threading
import traceback

import numpy as np
import pytest
from conftest import assert_close
from other_servers import openai, serve, tei

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import (
    ClosedError,
    ComputationError,
    InvalidInputError,
    NonFiniteError,
    OverloadedError,
    ServerError,
)

NAME = "BAAI/bge-base-en-v1.5"
KEY = "s3cret-key"


class Scripted:
    """A server of a model that answers the next requests for vectors as told, and then as usual."""

    def __init__(self, model):
        self.usual = tei(model, {"embedding": {"pooling": "cls"}}, NAME)
        self.next = []

    def __call__(self, path, body, headers):
        if path == "/embed" and self.next:
            planned = self.next.pop(0)
            return planned() if callable(planned) else planned
        return self.usual(path, body, headers)


@pytest.fixture
def scripted(base):
    answers = Scripted(base)
    with serve(answers) as server, load_embedder(server.url) as remote:
        answers.server, answers.remote = server, remote
        server.requests.clear()
        yield answers


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {}])
def test_a_server_that_asks_to_wait_is_asked_again(scripted, base, status, headers):
    scripted.next = [(status, headers, {"error": "later"})] * 2
    assert_close(scripted.remote.encode(["a"]).dense, base.encode(["a"]).dense)
    assert len(scripted.server.requests) == 3


def test_waiting_longer_than_the_timeout_is_refused_at_once(scripted):
    scripted.next = [(429, {"Retry-After": "61"}, {"error": "overloaded"})]
    with pytest.raises(OverloadedError):
        scripted.remote.encode(["a"])
    scripted.next = [(503, {"Retry-After": "61"}, {"error": "loading"})]
    with pytest.raises(ServerError) as caught:
        scripted.remote.encode(["a"])
    assert caught.value.status == 503
    assert len(scripted.server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, {"error": "broken"}), ServerError),
        ((502, {}, b"<html>"), ServerError),
        ((404, {}, {"detail": "Not Found"}), ServerError),
        ((424, {}, {"error": "the model failed", "error_type": "Backend"}), ComputationError),
        ((400, {}, {"error": {"message": "no", "type": "invalid"}}), InvalidInputError),
        ((422, {}, {"error": "inputs[0]", "error_type": "Tokenizer"}), InvalidInputError),
        ((200, {}, None), ServerError),
        ((200, {}, b"not json"), ServerError),
        ((200, {}, []), ServerError),
        ((200, {}, [[1.0, 0.0], [1.0, 0.0]]), ServerError),
        ((200, {}, [[1.0, "a"]]), ServerError),
        ((200, {}, {"vectors": []}), ServerError),
        ((200, {}, [[float("nan")] * 64]), NonFiniteError),
        ((200, {}, [[float("inf")] * 64]), NonFiniteError),
        ((302, {"Location": "http://127.0.0.1:9/"}, {}), ServerError),
    ],
)
def test_any_other_answer_is_an_error_and_is_not_asked_for_again(scripted, base, answer, error):
    scripted.next = [answer]
    with pytest.raises(error):
        scripted.remote.encode(["a"])
    assert [path for path, _, _ in scripted.server.requests].count("/embed") == 1
    assert_close(scripted.remote.encode(["a"]).dense, base.encode(["a"]).dense)


def test_a_slow_answer_times_out(scripted):
    done = threading.Event()
    scripted.next = [lambda: done.wait(20) and (200, {}, [[1.0]])]
    transport = scripted.remote._transport
    transport.address = dataclasses.replace(transport.address, timeout=0.2)  # after loading, which may take longer
    with pytest.raises(ServerError):
        scripted.remote.encode(["a"])
    done.set()


@pytest.mark.parametrize("positions", [[0], [0, 0], [0, 2], [0, 1, 2]])
def test_missing_and_misplaced_rows_are_refused(base, reranker, positions):
    def answer(path, body, headers):
        if path == "/v1/embeddings" and body["input"] != ["a"]:
            return 200, {}, {"data": [{"index": i, "embedding": [1.0] * base.dimension} for i in positions]}
        if path == "/v1/rerank":
            return 200, {}, {"results": [{"index": i, "relevance_score": 0.5} for i in positions]}
        return openai(base, [NAME])(path, body, headers)

    with serve(answer) as server:
        with load_embedder(server.url) as remote, pytest.raises(ServerError):
            remote.encode(["x", "y"])
        with load_reranker(server.url) as remote, pytest.raises(ServerError):
            remote.score([("q", "x"), ("q", "y")])


def test_no_server_at_the_address():
    for load in (load_embedder, load_reranker):
        with pytest.raises(ServerError) as caught:
            load("http://127.0.0.1:9")
        assert caught.value.status is None


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://host:99999",
        "http://user:pass@host",
        "http://host?colour=red",
        "http://host?dialect=klingon",
        "http://host?timeout=soon",
        "http://host?timeout=-1",
        "http://host#part",
    ],
)
def test_urls_that_are_not_a_servers_are_refused(url):
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(url)
    assert "pass" not in str(caught.value) or "user:pass" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "cpu"},
        {"dtype": "int8"},
        {"pooling": "cls"},
        {"family": "encoder"},
        {"task": "sts"},
        {"examples": []},
        {"cpu_kernels": "torch"},
        {"revision": "main"},
        {"cache_folder": "x"},
        {"local_files_only": True},
    ],
)
def test_settings_of_a_local_model_are_refused_before_anything_is_sent(settings):
    with pytest.raises(InvalidInputError) as caught:
        load_embedder("http://127.0.0.1:9", **settings)
    assert caught.value.argument == next(iter(settings))


def test_a_key_without_a_server_is_refused():
    for load in (load_embedder, load_reranker):
        with pytest.raises(InvalidInputError) as caught:
            load("pocket", api_key=KEY)
        assert caught.value.argument == "api_key"


@pytest.fixture
def guarded(base):
    """A server that wants the key, and repeats whatever it gets in its errors."""
    usual = tei(base, {"embedding": {"pooling": "cls"}}, NAME)

    def answer(path, body, headers):
        given = headers.get("authorization")
        if given != f"Bearer {KEY}":
            return 401, {}, {"error": f"{given} is wrong", "error_type": "Unauthorized"}
        if body and body.get("inputs") == ["fail"]:
            return 500, {}, {"error": f"failed with {given}"}
        return usual(path, body, headers)

    with serve(answer) as server:
        yield server


def test_the_key_comes_from_the_argument_or_the_environment(guarded, monkeypatch, base):
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(guarded.url)
    assert caught.value.argument == "api_key"
    with load_embedder(guarded.url, api_key=KEY) as remote:
        assert_close(remote.encode(["a"]).dense, base.encode(["a"]).dense)
    monkeypatch.setenv("BGE_API_KEY", "wrong")
    with pytest.raises(InvalidInputError):
        load_embedder(guarded.url)
    monkeypatch.setenv("BGE_API_KEY", KEY)
    with load_embedder(guarded.url) as remote:
        assert_close(remote.encode(["a"]).dense, base.encode(["a"]).dense)


def test_the_key_is_in_no_error_log_or_repr(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    with load_embedder(guarded.url, api_key=KEY) as remote:
        with pytest.raises(ServerError) as caught:
            remote.encode(["fail"])
        shown = [repr(remote), repr(vars(remote)), repr(remote._transport), caplog.text, remote.source]
        shown += ["".join(traceback.format_exception(caught.value)), repr(pickle.dumps(caught.value))]
    assert KEY not in "".join(shown)
    for wrong in ("white space ", "new\nline", "ключ"):
        with pytest.raises(InvalidInputError) as refused:
            load_embedder(guarded.url, api_key=wrong)
        assert wrong not in str(refused.value)


def test_a_remote_model_is_not_pickled(scripted):
    with pytest.raises(TypeError):
        pickle.dumps(scripted.remote)


def test_a_closed_client_refuses_calls(scripted):
    scripted.remote.close()
    scripted.remote.close()
    with pytest.raises(ClosedError):
        scripted.remote.encode(["a"])
    with pytest.raises(ClosedError):
        asyncio.run(scripted.remote.aencode(["a"]))


def answers_late(scripted, base):
    """Make the next answer wait. Return the events that its request has arrived, and that it may be sent."""
    arrived, go_on = threading.Event(), threading.Event()

    def late():
        arrived.set()
        assert go_on.wait(20)
        return 200, {}, base.encode(["a"]).dense.tolist()

    scripted.next = [late]
    return arrived, go_on


def test_a_call_that_runs_while_the_client_is_closed_finishes(scripted, base):
    arrived, go_on = answers_late(scripted, base)
    found = []
    caller = threading.Thread(target=lambda: found.append(scripted.remote.encode(["a"]).dense))
    caller.start()
    assert arrived.wait(20)
    scripted.remote.close()
    go_on.set()
    caller.join()
    assert_close(found[0], base.encode(["a"]).dense)


def test_the_loop_goes_on_while_the_server_thinks(scripted, base):
    arrived, go_on = answers_late(scripted, base)

    async def both():
        call = asyncio.create_task(scripted.remote.aencode(["a"]))
        while not arrived.is_set():
            await asyncio.sleep(0.001)
        go_on.set()  # reached only if the call does not block the loop
        return await call

    assert_close(asyncio.run(both()).dense, base.encode(["a"]).dense)


def test_a_cancelled_call_ends_at_once_and_the_client_goes_on(scripted, base):
    arrived, go_on = threading.Event(), threading.Event()
    scripted.next = [lambda: (arrived.set(), go_on.wait(20), (200, {}, [[1.0]]))[-1]]

    async def cancelled():
        call = asyncio.create_task(scripted.remote.aencode(["a"]))
        while not arrived.is_set():
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return await scripted.remote.aencode(["b"])

    assert_close(asyncio.run(cancelled()).dense, base.encode(["b"]).dense)
    go_on.set()


def test_one_client_serves_threads_and_loops(scripted, base):
    texts = [[f"text {i}", "shared"] for i in range(24)]
    expected = [base.encode(each).dense for each in texts]
    found = [None] * len(texts)

    def call(i):
        if i % 2:
            found[i] = scripted.remote.encode(texts[i]).dense
        else:
            found[i] = asyncio.run(scripted.remote.aencode(texts[i])).dense

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def _encode_in_child(remote, queue):
    queue.put(np.asarray(remote.encode(["child", "b"]).dense))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_child_has_connections_of_its_own(scripted, base):
    scripted.remote.encode(["before"])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_encode_in_child, args=(scripted.remote, queue))
    child.start()
    assert_close(queue.get(timeout=60), base.encode(["child", "b"]).dense)
    child.join(60)
    assert child.exitcode == 0
    assert_close(scripted.remote.encode(["after"]).dense, base.encode(["after"]).dense)
