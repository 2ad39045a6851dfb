"""The routes of every dialect: their answers are the core's, and wrong input has one answer each."""

import json

import hypothesis
import numpy as np
import pytest
import schemathesis
from conftest import BASE, TESTS, assert_close
from safetensors.numpy import load
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance
from servers import DOCUMENTS, app_server, wait_until_ready

from bge_integrations.serving import ServerSettings, create_app

TEXTS = ["Pandas eat bamboo.", "Rome lies on the Tiber.", ""]
LONG = "hello " * 3000
QUERY = "What do pandas eat?"
INSTRUCTED = "bge-base-en-v1.5"


@pytest.fixture(scope="module")
def encoded(pocket):
    return pocket.encode(TEXTS, sparse=True, multi_vector=True)


def post(api, path, **body):
    answer = api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(api, path, status, **body):
    """Return the body of the refusal."""
    answer = api.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_tei_outputs(api, encoded):
    assert_close(post(api, "/embed", inputs=TEXTS), encoded.dense)
    sparse = post(api, "/embed_sparse", inputs=TEXTS)
    for found, expected in zip(sparse, encoded.sparse.to_dicts(), strict=True):
        assert {each["index"]: each["value"] for each in found} == pytest.approx(expected, rel=1e-4)
    for found, rows in zip(post(api, "/embed_all", inputs=TEXTS), encoded.multi_vector, strict=True):
        assert_close(found, rows)
    assert_close(
        post(api, "/similarity", inputs={"source_sentence": TEXTS[0], "sentences": TEXTS}),
        encoded.dense @ encoded.dense[0],
    )


def test_tei_prompt_names_and_the_header(base):
    with app_server(models=[BASE]) as served:
        wait_until_ready(served)
        as_query = base.encode([QUERY], kind="query").dense
        assert_close(post(served.api, "/embed", inputs=QUERY, prompt_name="query"), as_query)
        assert_close(post(served.api, "/embed", inputs=QUERY, prompt_name="document"), base.encode([QUERY]).dense)
        by_header = served.api.post("/v1/embeddings", json={"input": QUERY}, headers={"x-bge-kind": "query"})
        assert_close(by_header.json()["data"][0]["embedding"], as_query[0])


def test_the_default_prompt_is_for_requests_that_name_none(base):
    with app_server(models=[BASE], default_prompt_name="query") as served:
        wait_until_ready(served)
        assert_close(post(served.api, "/embed", inputs=QUERY), base.encode([QUERY], kind="query").dense)
        assert_close(post(served.api, "/embed", inputs=QUERY, prompt_name="passage"), base.encode([QUERY]).dense)
    with app_server(models=[BASE], default_prompt="Find: ") as served:
        wait_until_ready(served)
        assert_close(post(served.api, "/embed", inputs=QUERY), base.encode([f"Find: {QUERY}"]).dense)


def test_tei_reranks(api, pocket_reranker):
    scores = pocket_reranker.score([(QUERY, text) for text in DOCUMENTS])
    order = np.argsort(-scores)
    found = post(api, "/rerank", query=QUERY, texts=DOCUMENTS, raw_scores=True, return_text=True)
    assert [each["index"] for each in found] == order.tolist()
    assert [each["text"] for each in found] == [DOCUMENTS[i] for i in order]
    assert_close([each["score"] for each in found], scores[order])
    predicted = post(api, "/predict", inputs=[[QUERY, text] for text in DOCUMENTS], raw_scores=True)
    assert_close([row[0]["score"] for row in predicted], scores)
    assert post(api, "/", query=QUERY, texts=DOCUMENTS)[0]["index"] == order[0]


def test_jina_reranks(api, pocket_reranker):
    scores = pocket_reranker.score([(QUERY, text) for text in DOCUMENTS], normalize=True)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, DOCUMENTS[2]]
        found = post(api, path, model="pocket", query=QUERY, documents=documents, top_n=1, return_documents=True)
        best = int(scores.argmax())
        assert_close(found["results"][0].pop("relevance_score"), scores[best])
        assert found["results"] == [{"index": best, "document": {"text": DOCUMENTS[best]}}]


def test_tei_tokenizes(api, pocket):
    (tokens,) = post(api, "/tokenize", inputs="Pandas eat")
    assert [token["id"] for token in tokens] == [token.id for token in pocket.tokens(["Pandas eat"])[0]]
    assert [token["special"] for token in tokens] == [True, False, False, True]
    assert ["Pandas eat"[token["start"] : token["stop"]] for token in tokens[1:-1]] == [t["text"] for t in tokens[1:-1]]
    assert len(post(api, "/tokenize", inputs="Pandas eat", add_special_tokens=False)[0]) == 2
    (text,) = post(api, "/decode", ids=[token["id"] for token in tokens])
    assert post(api, "/tokenize", inputs=text)[0] != []


def test_token_ids_stand_for_their_text(api, encoded):
    tokens = post(api, "/tokenize", inputs=TEXTS[:2])
    ids = [[token["id"] for token in row] for row in tokens]
    found = post(api, "/v1/embeddings", model="pocket", input=ids)
    assert_close([row["embedding"] for row in found["data"]], encoded.dense[:2])
    assert_close(post(api, "/v1/embeddings", input=ids[0])["data"][0]["embedding"], encoded.dense[0])


def test_m3_as_json_and_as_safetensors(api, encoded, pocket):
    body = {"model": "pocket", "inputs": TEXTS, "sparse": True, "multi_vector": True}
    found = post(api, "/v1/m3", **body)
    assert_close(found["dense"], encoded.dense)
    for row, expected in zip(found["sparse"], encoded.sparse, strict=True):
        assert row["indices"] == expected.indices.tolist()
        assert_close(row["values"], expected.values)
    for rows, expected in zip(found["multi_vector"], encoded.multi_vector, strict=True):
        assert_close(rows, expected)
    assert found["usage"]["tokens"] == sum(pocket.count_tokens(TEXTS))
    assert found["truncated"] == []
    binary = api.post("/v1/m3", json=body, headers={"accept": "application/vnd.safetensors"})
    assert binary.headers["content-type"] == "application/vnd.safetensors"
    tensors = load(binary.content)
    assert_close(tensors["dense"], encoded.dense)
    assert (tensors["sparse_indptr"] == encoded.sparse.offsets).all()
    assert (tensors["sparse_indices"] == encoded.sparse.indices).all()
    assert_close(tensors["sparse_values"], encoded.sparse.values)
    assert (tensors["multi_vector_indptr"] == encoded.multi_vector.offsets).all()
    assert_close(tensors["multi_vector"], encoded.multi_vector.vectors)


def test_m3_with_an_instruction_and_fewer_dimensions(api, base):
    found = post(
        api, "/v1/m3", model=INSTRUCTED, inputs=[QUERY], kind="query", query_instruction="Find: ", truncate_dim=8
    )
    expected = base.encode([f"Find: {QUERY}"]).dense[:, :8]
    assert_close(found["dense"], expected / np.linalg.norm(expected))


def test_scores(api, pocket_reranker):
    pairs = [[QUERY, text] for text in DOCUMENTS]
    expected = pocket_reranker.score([(query, passage) for query, passage in pairs])
    assert_close(post(api, "/v1/score", pairs=pairs)["scores"], expected)


def test_tokens_with_their_weights_and_rows(api, encoded, pocket):
    found = post(api, "/v1/tokens", inputs=TEXTS)["results"]
    for row, sparse, vectors in zip(found, encoded.sparse.to_dicts(), encoded.multi_vector, strict=True):
        assert {t["id"]: t["weight"] for t in row["tokens"] if t["weight"]} == pytest.approx(sparse, rel=1e-4)
        assert row["count"] == len(row["tokens"]) == len(vectors) + 1
    instructed = post(api, "/v1/tokens", model=INSTRUCTED, inputs=[QUERY], kind="query")["results"][0]["tokens"]
    assert all(token["weight"] is None for token in instructed)
    assert "".join(t["text"] for t in instructed if t["start"] is not None) == QUERY.replace(" ", "")


def test_index_search_has_the_parts_of_scores(api, pocket_reranker):
    (result,) = post(api, "/v1/indexes/demo/search", query=QUERY, k=2, rerank=True)["results"]
    assert len(result["hits"]) == 2
    for hit in result["hits"]:
        assert set(hit["parts"]) == {"dense", "sparse", "multi_vector", "rerank"}
        assert_close(hit["parts"]["rerank"], pocket_reranker.score([(QUERY, hit["text"])])[0], 1e-3)
        assert hit["score"] == hit["parts"]["rerank"]
    results = post(api, "/v1/indexes/demo/search", queries=[QUERY, "Rome"], mode="dense", filter={"n": {"$gte": 1}})
    assert [{hit["id"] for hit in each["hits"]} for each in results["results"]] == [{"rome", "trees"}] * 2
    assert all(set(hit["parts"]) == {"dense"} for each in results["results"] for hit in each["hits"])
    assert [index["id"] for index in api.get("/v1/indexes").json()["data"]] == ["demo"]


def test_index_documents(api):
    added = post(api, "/v1/indexes/demo/documents", texts=["It rains.", "It snows."], ids=["a/b#1", None])
    assert added["ids"][0] == "a/b#1"
    assert api.get("/v1/indexes/demo/documents/a/b%231").json() == {"id": "a/b#1", "text": "It rains.", "metadata": {}}
    assert api.delete("/v1/indexes/demo/documents/a/b%231").json()["deleted"] == 1
    assert api.get("/v1/indexes/demo/documents/a/b%231").status_code == 404
    assert post(api, "/v1/indexes/demo/documents/delete", ids=added["ids"])["deleted"] == 1
    assert api.get("/v1/indexes").json()["data"][0]["documents"] == len(DOCUMENTS)


def test_a_document_that_is_too_long_is_refused_and_nothing_stored(api):
    refusal = refused(api, "/v1/indexes/demo/documents", 413, texts=["short", LONG])
    assert refusal["error"]["code"] == "context_length_exceeded"
    assert api.get("/v1/indexes").json()["data"][0]["documents"] == len(DOCUMENTS)


def test_info_describes_the_models(api, pocket):
    info = api.get("/info").json()
    assert info["model_id"] == "text-embedding-3-small"
    embedder = next(model for model in info["models"] if "pocket" in model["names"] and model["kind"] == "embedder")
    assert embedder["digest"] == pocket.vector_settings("passage")["weights"]
    assert (embedder["dim"], embedder["max_length"]) == (pocket.dimension, pocket.max_length)
    assert embedder["outputs"] == ["dense", "sparse", "multi_vector"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": [TEXTS[0], LONG]}),
        ("/embed_sparse", {"inputs": [TEXTS[0], LONG]}),
        ("/v1/embeddings", {"input": [TEXTS[0], LONG]}),
        ("/v1/m3", {"inputs": [TEXTS[0], LONG]}),
        ("/v1/score", {"pairs": [["a", "b"], ["a", LONG]]}),
        ("/rerank", {"query": "a", "texts": ["b", LONG]}),
    ],
)
def test_texts_that_are_too_long_are_refused_or_reported(api, pocket, pocket_reranker, path, body):
    model = pocket if {"input", "inputs"} & set(body) else pocket_reranker
    answer = api.post(path, json=body)
    assert answer.status_code == 413
    assert "[1]" in answer.text
    assert "[0]" not in answer.text
    assert str(model.max_length) in answer.text
    truncated = api.post(path, json={**body, "truncate": True})
    assert truncated.status_code == 200
    assert truncated.headers["x-bge-truncated"] == "1"
    short = {name: value[:1] if isinstance(value, list) else value for name, value in body.items()}
    assert "x-bge-truncated" not in api.post(path, json=short).headers


def test_cohere_and_jina_truncate_and_say_so(api):
    found = post(api, "/v2/embed", model="pocket", texts=[LONG], input_type="search_query")
    assert len(found["meta"]["warnings"]) == 1
    refused(api, "/v2/embed", 413, model="pocket", texts=[LONG], truncate="NONE")
    assert post(api, "/v1/rerank", query=QUERY, documents=[LONG])["meta"]["warnings"]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/embed", 400, {"inputs": []}),
        ("/embed", 413, {"inputs": ["a"] * 33}),
        ("/embed", 422, {"inputs": ["a", 1]}),
        ("/embed", 422, {"inputs": "a", "prompt_name": "unknown"}),
        ("/embed", 422, {"inputs": "a", "dimensions": 10_000}),
        ("/embed", 422, {"inputs": "a", "truncation_direction": "left"}),
        ("/rerank", 422, {"query": "a"}),
        ("/rerank", 400, {"query": "a", "texts": []}),
        ("/v1/embeddings", 400, {"input": []}),
        ("/v1/embeddings", 404, {"input": "a", "model": "unknown"}),
        ("/v1/embeddings", 413, {"input": ["a"] * 2049}),
        ("/v1/embeddings", 422, {"input": {"text": "a"}}),
        ("/v1/embeddings", 422, {"input": [[-1]]}),
        ("/v1/embeddings", 422, {"input": [[]]}),
        ("/v1/embeddings", 422, {"input": "a", "encoding_format": "hex"}),
        ("/v1/m3", 422, {"inputs": ["a"], "unknown": 1}),
        ("/v1/m3", 422, {"inputs": ["a"], "dense": False}),
        ("/v1/m3", 424, {"inputs": ["a"], "model": INSTRUCTED, "sparse": True}),
        ("/v1/score", 422, {"pairs": [["a"]]}),
        ("/v1/indexes/unknown/search", 404, {"query": "a"}),
        ("/v1/indexes/demo/search", 422, {}),
        ("/v1/indexes/demo/search", 422, {"query": "a", "filter": {"n": {"$unknown": 1}}}),
        ("/v1/indexes/demo/search", 422, {"query": "a", "weights": [0, 0, 0]}),
        ("/v1/indexes/demo/search", 404, {"query": "a", "rerank": "unknown"}),
        ("/v1/indexes/demo/documents", 422, {"texts": ["a"], "ids": ["a", "b"]}),
        ("/v1/indexes/demo/documents/delete", 422, {}),
        ("/v2/embed", 422, {"texts": ["a"], "input_type": "unknown"}),
        ("/unknown", 404, {}),
    ],
)
def test_wrong_input_has_the_body_of_its_dialect(api, path, status, body):
    refusal = refused(api, path, status, **body)
    if path.startswith("/v1/"):
        assert set(refusal["error"]) == {"message", "type", "code", "param"}
    elif path.startswith("/v2/"):
        assert set(refusal) == {"id", "message"}
    else:
        assert set(refusal) == {"error", "error_type"}
    assert str(TESTS) not in json.dumps(refusal)


def test_reranking_without_inputs_names_both_dialects(api):
    message = refused(api, "/rerank", 422, query="a")["error"]
    assert "documents" in message
    assert "texts" in message


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b'{"inputs": "\\ud800"}', b"null", b""])
def test_a_body_that_is_not_json(api, body):
    answer = api.post("/embed", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "error_type"}


schema = schemathesis.openapi.from_dict(create_app(ServerSettings(models=["pocket"])).openapi())


@schema.parametrize()
@hypothesis.settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_answers_are_as_openapi_describes_them(case, server):
    # whether a name or a length is accepted is more than the description can say, and starlette's header Allow names
    # the methods of one route only
    excluded = [positive_data_acceptance, allow_header_conformance]
    case.call_and_validate(base_url=server.url, excluded_checks=excluded)
