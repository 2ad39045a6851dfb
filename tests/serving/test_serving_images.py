"""Images sent to a server: in every dialect that has them, by our client, and by the adapters with a server's URL."""

import asyncio
import base64
import io

import cohere
import numpy as np
import openai
import pytest
from conftest import CLIP, IMAGES, assert_close
from PIL import Image
from servers import app_server, wait_until_ready

from bge_integrations import load_embedder
from bge_integrations.chroma import BGEVisualEmbeddingFunction
from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.langchain import BGEVisualEmbeddings
from bge_integrations.llama_index import BGEVisualEmbedding

SHAPES, GREY, CMYK = (str(IMAGES / name) for name in ("shapes.png", "grey.png", "cmyk.jpg"))
BOTH = {"image": SHAPES, "text": "red"}


def as_base64(path):
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def png_of(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


URI = f"data:image/png;base64,{as_base64(SHAPES)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    with M3Index.open(folder / "texts", model="pocket") as index:
        index.add(["red"], ids=["red"])
    with app_server(
        models=[CLIP, "pocket"],
        served_model_names=["clip"],
        indexes={"pictures": str(folder / "pictures"), "texts": str(folder / "texts")},
        create_indexes=True,
        payload_limit=100_000,
        max_image_pixels=100_000,
    ) as started:
        wait_until_ready(started)
        yield started


@pytest.fixture(scope="module")
def remote(served):
    with load_embedder(f"{served.url}?model=clip") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def expected(clip):
    return clip.encode(["red", {"image": SHAPES}, BOTH]).dense


def test_our_own_route(served, expected):
    items = ["red", {"image": as_base64(SHAPES)}, {"image": URI, "text": "red"}, {"text": "red"}]
    answer = served.api.post("/v1/m3", json={"inputs": items})
    assert_close(answer.json()["dense"], expected[[0, 1, 2, 0]])
    model, text_model = served.api.get("/info").json()["models"]
    assert model["takes_images"] is True
    assert text_model["takes_images"] is False


def test_openais_and_jinas_items(served, expected):
    items = ["red", {"image": as_base64(SHAPES)}, {"image": URI, "text": "red"}, URI, {"text": "red"}]
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    rows = client.embeddings.create(model="clip", input=items).data
    assert_close([row.embedding for row in rows], expected[[0, 1, 2, 1, 0]])
    for one, i in ((URI, 1), ("red", 0)):
        assert_close(client.embeddings.create(model="clip", input=one).data[0].embedding, expected[i])


def test_coheres_client_sends_images(served, expected):
    client = cohere.ClientV2(api_key="none", base_url=served.url)
    by_image = client.embed(model="clip", images=[URI], input_type="image", embedding_types=["float"])
    assert_close(by_image.embeddings.float_, expected[1:2])
    content = [{"type": "image_url", "image_url": {"url": URI}}, {"type": "text", "text": "red"}]
    mixed = client.embed(
        model="clip", inputs=[{"content": content}], input_type="search_document", embedding_types=["float"]
    )
    assert_close(mixed.embeddings.float_, expected[2:])


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ({"image": "not base64!"}, 422),
        ({"image": "AAAA"}, 422),
        ({"image": "https://127.0.0.1:9/a.png"}, 422),
        ({"image": f"file://{SHAPES}"}, 422),
        ({"image": SHAPES}, 422),
        ({"image": "data:image/svg+xml,<svg/>"}, 422),
        ({}, 422),
        ({"image": as_base64(SHAPES), "more": 1}, 422),
        ({"image": 3}, 422),
        ({"image": "A" * 200_000}, 413),
        ({"image": png_of(1000, 101)}, 413),
    ],
    ids=lambda given: str(given)[:30],
)
def test_a_bad_image_is_refused(served, item, status):
    for path, name in (("/v1/m3", "inputs"), ("/v1/embeddings", "input")):
        answer = served.api.post(path, json={"model": "clip", name: ["fine", item]})
        assert answer.status_code == status, answer.text
        assert status == 413 or "1" in answer.text
        assert str(IMAGES) not in answer.text


def test_a_bad_image_of_cohere_is_refused(served):
    image = {"type": "image_url", "image_url": {"url": URI}}
    for body in (
        {"images": ["AAAA"]},
        {"images": []},
        {},
        {"texts": ["a"], "images": [URI]},
        {"inputs": [{"content": []}]},
    ):
        assert served.api.post("/v2/embed", json=body).status_code in (400, 422), body
    assert served.api.post("/v2/embed", json={"inputs": [{"content": [image, image]}]}).status_code == 422


def test_a_text_model_refuses_images_but_takes_jinas_texts(served, pocket):
    answer = served.api.post("/v1/embeddings", json={"model": "pocket", "input": [{"image": URI}]})
    assert answer.status_code == 424
    answer = served.api.post("/v1/embeddings", json={"model": "pocket", "input": [{"text": "hi"}, URI[:30]]})
    assert_close([row["embedding"] for row in answer.json()["data"]], pocket.encode(["hi", URI[:30]]).dense)


def test_an_index_holds_and_finds_images(served, clip):
    texts = [{"image": as_base64(SHAPES)}, {"image": as_base64(GREY), "text": "grey"}, "red"]
    added = served.api.post(
        "/v1/indexes/pictures/documents",
        json={"texts": texts, "ids": ["shapes", "grey", "red"], "metadata": [{"path": "shapes.png"}, {}, {}]},
    )
    assert added.json() == {"index": "pictures", "ids": ["shapes", "grey", "red"], "truncated": []}
    assert served.api.get("/v1/indexes/pictures/documents/grey").json()["text"] == "grey"

    queries = [{"image": URI}, {"image": as_base64(GREY), "text": "grey"}, "red", {"text": "red"}]
    answer = served.api.post("/v1/indexes/pictures/search", json={"queries": queries, "k": 1}).json()
    assert [result["query"] for result in answer["results"]] == [None, "grey", "red", "red"]
    assert [result["hits"][0]["id"] for result in answer["results"]] == ["shapes", "grey", "red", "red"]
    assert [result["hits"][0]["score"] for result in answer["results"]] == pytest.approx([1] * 4, abs=1e-5)
    representations = {row["id"]: row["representations"] for row in served.api.get("/v1/indexes").json()["data"]}
    assert representations == {"pictures": ["dense"], "texts": ["dense", "sparse", "multi_vector"]}
    one = served.api.post("/v1/indexes/pictures/search", json={"query": {"image": URI}, "k": 3}).json()
    (result,) = one["results"]
    cosines = (
        clip.encode([{"image": SHAPES}]).dense
        @ clip.encode([{"image": SHAPES}, {"image": GREY, "text": "grey"}, "red"]).dense.T
    )
    assert sorted((hit["score"] for hit in result["hits"]), reverse=True) == pytest.approx(
        sorted(cosines[0], reverse=True), abs=1e-5
    )


def test_a_text_beside_an_image_is_reported_or_refused_if_it_is_too_long(served):
    texts = [{"image": URI}, {"image": URI, "text": "red " * 100}]
    route = "/v1/indexes/pictures/documents"
    refused = served.api.post(route, json={"texts": texts, "ids": ["a", "b"], "truncate": False})
    assert refused.status_code == 413
    assert served.api.get(f"{route}/a").status_code == 404
    assert served.api.post(route, json={"texts": texts, "ids": ["a", "b"], "truncate": True}).json()["truncated"] == [1]
    served.api.post(f"{route}/delete", json={"ids": ["a", "b"]})


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("pictures", {"query": {"image": "https://127.0.0.1:9/a.png"}}, 422),
        ("pictures", {"query": {"image": SHAPES}}, 422),
        ("pictures", {"query": {}}, 422),
        ("pictures", {"queries": ["red", {"image": "AAAA"}]}, 422),
        ("pictures", {"query": {"image": png_of(1000, 101)}}, 413),
        ("pictures", {"query": {"image": URI}, "rerank": True}, 422),
        ("texts", {"query": {"image": URI}}, 424),
    ],
)
def test_an_index_refuses_images_that_it_cannot_search_for(served, name, body, status):
    assert served.api.post(f"/v1/indexes/{name}/search", json=body).status_code == status


def test_a_damaged_image_among_documents_stores_nothing(served):
    texts = [{"image": URI}, {"image": "AAAA"}]
    route = "/v1/indexes/pictures/documents"
    assert served.api.post(route, json={"texts": texts, "ids": ["good", "bad"]}).status_code == 422
    assert served.api.get(f"{route}/good").status_code == 404
    assert served.api.post("/v1/indexes/texts/documents", json={"texts": texts[:1]}).status_code == 424


def test_the_client_sends_images_of_every_kind(remote, clip):
    assert remote.takes_images
    pictures = [Image.open(CMYK), Image.open(IMAGES / "palette.png"), Image.open(IMAGES / "greyalpha.png")]
    arrays = [np.asarray(Image.open(SHAPES)), np.asarray(Image.open(GREY))[..., None]]
    content = (IMAGES / "shapes.png").read_bytes()
    images = [SHAPES, IMAGES / "turned.jpg", content, *pictures, *arrays]
    inputs = ["red", *({"image": image} for image in images), BOTH, "red"]
    found = clip.encode(inputs).dense
    assert_close(remote.encode(inputs).dense, found)
    assert_close(asyncio.run(remote.aencode(inputs, kind="query")).dense, found)
    assert_close(remote.encode([BOTH], kind="passage").dense, found[-2:-1])


def test_the_client_names_a_bad_image_before_it_is_sent(remote, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(bytes(200_000))
    for bad in ("missing.png", b"", "https://example.com/a.png", str(large)):
        with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
            remote.encode(["fine", {"image": bad}])
    with pytest.raises(InvalidInputError):
        remote.count_tokens([{"image": SHAPES}])


def test_adapters_with_a_servers_url(served, expected):
    url = f"{served.url}?model=clip"
    assert_close(BGEVisualEmbeddings(model=url).embed_images([SHAPES])[0], expected[1])
    assert_close(BGEVisualEmbedding(url).get_image_embedding(BOTH), expected[2])
    assert_close(BGEVisualEmbeddingFunction(url)([np.asarray(Image.open(SHAPES))])[0], expected[1])
    with pytest.raises(InvalidInputError):
        BGEVisualEmbeddings(model=f"{served.url}?model=pocket")
