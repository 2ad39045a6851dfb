"""Servers of other kinds: the local model's vectors and scores, the instruction once, and clear errors for the rest."""

import asyncio
import gc

import numpy as np
import pytest
from conftest import BASE, assert_close
from other_servers import openai, serve, tei

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import (
    InstructionWarning,
    InvalidInputError,
    NotSupportedError,
    ServerError,
    TextTooLongError,
    TruncationWarning,
    WrongKindError,
)

NAME = "BAAI/bge-base-en-v1.5"
TEXTS = ["pandas eat bamboo", "", "Rome", "What is it?", "pandas eat bamboo", "naïve café", "seven"]
PAIRS = [("panda", "bamboo"), ("Rome", "Italy"), ("panda", "Italy"), ("panda", "bamboo"), ("Rome", "")]


@pytest.fixture(params=["tei", "openai", "infinity", "lists"])
def embedding_server(request, base):
    answers = {
        "tei": lambda: tei(base, {"embedding": {"pooling": "cls"}}, NAME),
        "openai": lambda: openai(base, [NAME]),
        "infinity": lambda: openai(base, [NAME], prefix=""),
        "lists": lambda: openai(base, [NAME], as_lists=True),
    }
    with serve(answers[request.param]()) as server:
        yield server


@pytest.fixture(params=["tei", "cohere", "infinity"])
def reranking_server(request, reranker):
    answers = {
        "tei": lambda: tei(reranker, {"reranker": {}}, "BAAI/bge-reranker-v2-m3"),
        "cohere": lambda: openai(reranker, ["BAAI/bge-reranker-v2-m3"]),
        "infinity": lambda: openai(reranker, ["BAAI/bge-reranker-v2-m3"], prefix=""),
    }
    with serve(answers[request.param]()) as server:
        yield server


@pytest.mark.parametrize("kind", ["query", "passage", None])
def test_vectors_are_the_local_models_with_its_instruction_once(embedding_server, base, kind):
    expected = base.encode(TEXTS, kind=kind).dense
    with load_embedder(embedding_server.url) as remote:
        assert_close(remote.encode(TEXTS, kind=kind).dense, expected)
        assert_close(remote.encode_dense(TEXTS, kind=kind), expected)
        assert_close(asyncio.run(remote.aencode(TEXTS, kind=kind)).dense, expected)
        assert (remote.dimension, remote.query_instruction) == (base.dimension, base.query_instruction)


def test_no_prompt_name_is_sent(embedding_server):
    with load_embedder(embedding_server.url) as remote:
        remote.encode(TEXTS, kind="query")
    assert not any("prompt_name" in body for _, body, _ in embedding_server.requests if body)


def test_given_instructions_replace_the_catalogues(embedding_server):
    with (
        load_embedder(BASE, query_instruction="Find: ", passage_instruction="Text: ") as local,
        load_embedder(embedding_server.url, query_instruction="Find: ", passage_instruction="Text: ") as remote,
    ):
        for kind in ("query", "passage"):
            assert_close(remote.encode(TEXTS, kind=kind).dense, local.encode(TEXTS, kind=kind).dense)
            assert remote.vector_settings(kind)["instruction"] == local.vector_settings(kind)["instruction"]


def test_an_embedder_for_a_task_outlives_the_one_it_came_from(base):
    with serve(tei(base, {"embedding": {"pooling": "lasttoken"}}, "BAAI/bge-multilingual-gemma2", 8)) as server:
        first = load_embedder(server.url)
        remote = first.for_task("NFCorpus")
        del first
        gc.collect()
        found = remote.encode(["a"], kind="query").dense
        assert remote.query_instruction.startswith("<instruct>")
        assert_close(found, base.encode([remote.query_instruction + "a"]).dense)
        remote.close()


def test_vectors_are_shortened_as_locally(embedding_server):
    with load_embedder(BASE, truncate_dim=8) as local, load_embedder(embedding_server.url, truncate_dim=8) as remote:
        assert_close(remote.encode(TEXTS).dense, local.encode(TEXTS).dense)
        assert remote.dimension == 8


def test_nothing_is_sent_for_no_texts(embedding_server):
    with load_embedder(embedding_server.url) as remote:
        before = len(embedding_server.requests)
        assert remote.encode([]).dense.shape == (0, remote.dimension)
        assert len(embedding_server.requests) == before


def test_what_the_server_does_not_have_is_refused(embedding_server):
    with load_embedder(embedding_server.url) as remote:
        assert not remote.has_sparse
        for name in ("sparse", "multi_vector"):
            with pytest.raises(InvalidInputError) as caught:
                remote.encode(["a"], **{name: True})
            assert caught.value.argument == name
        with pytest.raises(NotSupportedError) as unsupported:
            remote.encode(["a"], max_length=8)
        assert unsupported.value.argument == "max_length"


@pytest.mark.parametrize("normalize", [False, True])
def test_scores_are_the_local_rerankers(reranking_server, reranker, normalize):
    expected = reranker.score(PAIRS, normalize=normalize)
    with load_reranker(reranking_server.url) as remote:
        assert_close(remote.score(PAIRS, normalize=normalize), expected, 1e-4)
        assert_close(asyncio.run(remote.ascore(PAIRS, normalize=normalize)), expected, 1e-4)
        assert remote.score([]).shape == (0,)


def test_tei_batches_are_within_its_limit(base):
    with (
        serve(tei(base, {"embedding": {"pooling": "cls"}}, NAME, max_batch=3)) as server,
        load_embedder(server.url) as remote,
    ):
        assert_close(remote.encode([str(i) for i in range(10)]).dense, base.encode([str(i) for i in range(10)]).dense)
        sizes = [len(body["inputs"]) for body in server.bodies("/embed")[1:]]
        assert sorted(sizes) == [1, 3, 3, 3]


def test_tei_truncation_is_reported(base):
    long = "word " * 20
    with serve(tei(base, {"embedding": {"pooling": "cls"}}, NAME)) as server, load_embedder(server.url) as remote:
        with pytest.warns(TruncationWarning):
            found = remote.encode(["a", long]).dense
        assert found.shape == (2, base.dimension)
        with pytest.raises(TextTooLongError):
            remote.encode(["a", long], on_truncate="error")
        remote.encode(["a", long], on_truncate="ignore")


def test_tei_models_of_the_other_kind_are_refused(base):
    with serve(tei(base, {"reranker": {}}, NAME)) as server, pytest.raises(WrongKindError):
        load_embedder(server.url)


def test_one_of_several_models_is_named_in_the_url(base):
    with serve(openai(base, ["other", NAME])) as server:
        with pytest.raises(InvalidInputError) as caught:
            load_embedder(server.url)
        assert caught.value.argument == "model"
        with load_embedder(f"{server.url}/v1?model={NAME}") as remote:
            assert_close(remote.encode(TEXTS, kind="query").dense, base.encode(TEXTS, kind="query").dense)
            assert remote.source == f"{server.url}?model={NAME}"


def test_an_unknown_models_missing_instruction_is_reported(base):
    with serve(openai(base, ["my-model"])) as server:
        with pytest.warns(InstructionWarning), load_embedder(server.url) as remote:
            assert remote.query_instruction == ""
        with load_embedder(server.url, query_instruction="Find: ") as remote:
            assert remote.query_instruction == "Find: "


def test_the_dialect_can_be_named(base):
    with serve(openai(base, [NAME])) as server:
        with load_embedder(f"{server.url}?dialect=openai") as remote:
            assert remote.dimension == base.dimension
        assert "/info" not in [path for path, _, _ in server.requests]
        for dialect in ("tei", "bge"):
            with pytest.raises(ServerError):
                load_embedder(f"{server.url}?dialect={dialect}")


def test_scores_of_0_and_1_stay_finite(reranker):
    def answer(path, body, headers):
        if path != "/v1/rerank":
            return openai(reranker, ["r"])(path, body, headers)
        rows = [{"index": i, "relevance_score": float(i)} for i in range(2)]
        return 200, {}, {"results": rows}

    with serve(answer) as server, load_reranker(server.url) as remote:
        scores = remote.score([("a", "b"), ("a", "c")])
    assert np.isfinite(scores).all()
    assert scores[0] < scores[1]


def test_tokens_are_counted_where_the_server_has_them(base):
    with serve(tei(base, {"embedding": {"pooling": "cls"}}, NAME)) as server, load_embedder(server.url) as remote:
        assert remote.count_tokens(["one two three", "one"]) == [3, 1]
    with serve(openai(base, [NAME])) as server, load_embedder(server.url) as remote, pytest.raises(NotSupportedError):
        remote.count_tokens(["a"])
