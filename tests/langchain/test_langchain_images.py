"""BGEVisualEmbeddings: conformance, inputs of all kinds, and vector stores that hold images."""

import base64
import io
import pickle

import pytest
from conftest import BASE, CLIP, IMAGES, VISUALIZED, assert_close
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from PIL import Image

from bge_integrations import load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.langchain import BGEVisualEmbeddings

SHAPES, GREY, TURNED = (str(IMAGES / name) for name in ("shapes.png", "grey.png", "turned.jpg"))


def as_base64(path: str) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def as_uri(path: str) -> str:
    return f"data:image/png;base64,{as_base64(path)}"


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return BGEVisualEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": CLIP}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return BGEVisualEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": CLIP}


@pytest.fixture(scope="module")
def embeddings():
    return BGEVisualEmbeddings(model=CLIP)


def test_the_default_model_takes_images():
    assert BGEVisualEmbeddings.model_fields["model"].default == "BAAI/BGE-VL-base"
    with pytest.raises(InvalidInputError, match="BGE-VL-base"):
        BGEVisualEmbeddings(model=BASE)


def test_vectors_of_images_are_the_cores(embeddings, clip):
    expected = clip.encode([{"image": SHAPES}, {"image": GREY}]).dense
    assert_close(embeddings.embed_images([SHAPES, GREY]), expected)
    assert_close(embeddings.embed_image(uris=[SHAPES, GREY]), expected)
    assert_close(embeddings.embed_image(SHAPES), expected[0])
    assert embeddings.embed_images([]) == []
    assert all(type(value) is float for value in embeddings.embed_image(SHAPES))


def test_an_image_can_be_all_that_the_core_takes_a_file_object_or_a_data_uri(embeddings, clip):
    content = (IMAGES / "shapes.png").read_bytes()
    kinds = [IMAGES / "shapes.png", content, io.BytesIO(content), Image.open(SHAPES), as_uri(SHAPES)]
    assert_close(embeddings.embed_images(kinds), clip.encode([{"image": SHAPES}] * len(kinds)).dense)


IMAGE_BLOCK, TEXT_BLOCK = create_image_block(base64=as_base64(SHAPES), mime_type="image/png"), create_text_block("red")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("red", "red"),
        (as_uri(SHAPES), {"image": SHAPES}),
        ({"image": SHAPES}, {"image": SHAPES}),
        ({"text": "red"}, "red"),
        ({"image": as_uri(SHAPES), "text": "red"}, {"image": SHAPES, "text": "red"}),
        ([TEXT_BLOCK], "red"),
        ([IMAGE_BLOCK, TEXT_BLOCK], {"image": SHAPES, "text": "red"}),
        (HumanMessage([IMAGE_BLOCK]), {"image": SHAPES}),
        ([{"type": "image_url", "image_url": {"url": as_uri(SHAPES)}}, "red"], {"image": SHAPES, "text": "red"}),
    ],
)
def test_a_query_and_a_document_can_be_a_text_an_image_or_both(embeddings, clip, given, expected):
    vector = clip.encode([expected]).dense[0]
    assert_close(embeddings.embed_query(given), vector)
    assert_close(embeddings.embed_documents(["a", given])[1], vector)


async def test_async_methods_return_the_same(embeddings):
    both = {"image": SHAPES, "text": "red"}
    assert_close(await embeddings.aembed_query(both), embeddings.embed_query(both))
    assert_close(await embeddings.aembed_documents(["a", both]), embeddings.embed_documents(["a", both]))
    assert_close(await embeddings.aembed_images([SHAPES]), embeddings.embed_images([SHAPES]))
    assert_close(await embeddings.aembed_image(SHAPES), embeddings.embed_image(SHAPES))


@pytest.mark.parametrize(
    "bad",
    [
        {"image": "missing.png"},
        {"image": b"not an image"},
        "data:image/png;base64,!!!",
        "data:image/svg+xml,<svg/>",
        {"picture": SHAPES},
        [],
        [3],
        [IMAGE_BLOCK, IMAGE_BLOCK],
        [{"type": "image", "url": "https://127.0.0.1:9/a.png"}],
        [{"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}],
        None,
    ],
)
def test_a_bad_input_is_named(embeddings, bad):
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        embeddings.embed_documents(["fine", bad])
    with pytest.raises(InvalidInputError):
        embeddings.embed_query(bad)


def test_one_image_instead_of_a_list_is_refused(embeddings):
    for one in (SHAPES, b"bytes", 3, {"image": SHAPES}):
        with pytest.raises(InvalidInputError):
            embeddings.embed_images(one)
    with pytest.raises(InvalidInputError):
        embeddings.embed_documents("text")


def test_visualized_bge_and_pickles():
    embeddings = pickle.loads(pickle.dumps(BGEVisualEmbeddings(model=VISUALIZED, truncate_dim=8)))
    with load_embedder(VISUALIZED, truncate_dim=8) as embedder:
        both = {"image": SHAPES, "text": "red"}
        assert_close(embeddings.embed_query(both), embedder.encode([both]).dense[0])


async def test_any_store_holds_images_as_data_uris(embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(as_uri(path), metadata={"source": path}) for path in (SHAPES, GREY)])
    await store.aadd_texts(["a panda"], [{"source": "text"}])
    assert store.similarity_search(as_uri(GREY), k=1)[0].metadata == {"source": GREY}
    assert (await store.asimilarity_search("a panda", k=1))[0].metadata == {"source": "text"}
    vector = embeddings.embed_query({"image": SHAPES, "text": "a panda"})
    assert len(store.similarity_search_by_vector(vector, k=3)) == 3


def test_langchains_chroma_adds_and_searches_images(embeddings, tmp_path):
    def opened():
        return Chroma(
            "pictures",
            embeddings,
            persist_directory=str(tmp_path),
            collection_configuration={"hnsw": {"space": "cosine"}},
        )

    opened().add_images([SHAPES, GREY, TURNED], [{"source": path} for path in (SHAPES, GREY, TURNED)])
    store = opened()
    store.add_texts(["a panda"], [{"source": "text"}])
    for path in (SHAPES, GREY, TURNED):
        found = store.similarity_search_by_image(path, k=1)[0]
        assert found.metadata["source"] == path
        assert found.page_content == as_base64(path)
    assert store.similarity_search("a panda", k=1)[0].page_content == "a panda"
