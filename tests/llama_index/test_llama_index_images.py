"""BGEVisualEmbedding: the contract, images of all kinds, and LlamaIndex's multimodal index."""

import base64
import io
from typing import ClassVar

import pytest
from conftest import BASE, CLIP, IMAGES, VISUALIZED, assert_close
from llama_index.core import Document, StorageContext, load_index_from_storage
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import ImageDocument, ImageNode, QueryBundle, TextNode
from llama_index_contract import EmbeddingContract
from PIL import Image

from bge_integrations import load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.llama_index import BGEVisualEmbedding

SHAPES, GREY, TURNED = (str(IMAGES / name) for name in ("shapes.png", "grey.png", "turned.jpg"))
GREY_BASE64 = base64.b64encode((IMAGES / "grey.png").read_bytes()).decode()


@pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")  # BGE-VL reads 77 tokens
class TestEmbeddingContract(EmbeddingContract):
    changes: ClassVar = {
        "model_name": VISUALIZED,
        "query_instruction": "Represent: ",
        "text_instruction": "Represent: ",
        "normalize": False,
        "max_length": 8,
        "truncate_dim": 16,
        "dtype": "bfloat16",
    }
    with_query_instruction: ClassVar = {"query_instruction": "Represent: "}
    without_query_instruction: ClassVar = {}

    def make(self, **fields):
        return BGEVisualEmbedding(**{"model_name": CLIP, **fields})


@pytest.fixture(scope="module")
def embedding():
    return BGEVisualEmbedding(CLIP)


def test_the_default_model_takes_images():
    assert BGEVisualEmbedding.model_fields["model_name"].default == "BAAI/BGE-VL-base"
    with pytest.raises(InvalidInputError, match="BGE-VL-base"):
        BGEVisualEmbedding(BASE)


async def test_vectors_of_images_are_the_cores(embedding, clip):
    content = (IMAGES / "shapes.png").read_bytes()
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    kinds = [SHAPES, IMAGES / "shapes.png", content, io.BytesIO(content), Image.open(SHAPES), uri, {"image": SHAPES}]
    expected = clip.encode([{"image": SHAPES}] * len(kinds)).dense
    assert_close(embedding.get_image_embedding_batch(kinds), expected)
    assert_close(await embedding.aget_image_embedding_batch(kinds), expected)
    assert_close(embedding.get_image_embedding(SHAPES), expected[0])
    assert_close(await embedding.aget_image_embedding(SHAPES), expected[0])


def test_an_image_with_a_text(embedding, clip):
    both = {"image": io.BytesIO((IMAGES / "shapes.png").read_bytes()), "text": "red"}
    assert_close(embedding.get_image_embedding(both), clip.encode([{"image": SHAPES, "text": "red"}]).dense[0])
    with load_embedder(VISUALIZED) as embedder:
        expected = embedder.encode([{"image": SHAPES, "text": "red"}]).dense[0]
        assert_close(BGEVisualEmbedding(VISUALIZED).get_image_embedding(both), expected)


@pytest.mark.parametrize("bad", ["missing.png", b"not an image", io.BytesIO(b""), "data:image/png;base64,!", 3, {}])
def test_a_bad_image_is_named(embedding, bad):
    with pytest.raises(InvalidInputError, match=r"\[1\]"):
        embedding.get_image_embedding_batch([SHAPES, bad])


def picture_nodes():
    return [
        ImageNode(image_path=SHAPES, id_="path"),
        ImageNode(image=GREY_BASE64, id_="base64"),
        ImageNode(image_path=TURNED, text="a turned picture", id_="both"),
        TextNode(text="a panda", id_="text"),
    ]


@pytest.mark.parametrize("use_async", [False, True])
async def test_a_multimodal_index_of_texts_and_images(embedding, clip, tmp_path, use_async):
    index = MultiModalVectorStoreIndex(
        [], embed_model=embedding, image_embed_model=embedding, is_image_vector_store_empty=False
    )
    if use_async:
        await index.ainsert_nodes(picture_nodes())
    else:
        index.insert_nodes(picture_nodes())
    index.storage_context.persist(tmp_path)
    again = load_index_from_storage(
        StorageContext.from_defaults(persist_dir=tmp_path), embed_model=embedding, image_embed_model=embedding
    )
    for stored in (index, again):
        retriever = stored.as_retriever(similarity_top_k=1, image_similarity_top_k=3)
        found = await retriever.aretrieve("a panda") if use_async else retriever.retrieve("a panda")
        assert found[0].node.node_id == "text"
        assert {each.node.node_id for each in found[1:]} == {"path", "base64", "both"}
        vectors = clip.encode(["a panda", *({"image": path} for path in (SHAPES, GREY, TURNED))]).dense
        assert found[1].score == pytest.approx((vectors[1:] @ vectors[0]).max())
        for path, node_id in ((SHAPES, "path"), (GREY, "base64"), (TURNED, "both")):
            by_image = (
                await retriever.aimage_to_image_retrieve(path) if use_async else retriever.image_to_image_retrieve(path)
            )
            assert by_image[0].node.node_id == node_id
            assert by_image[0].score == pytest.approx(1)


def test_a_multimodal_index_of_documents(embedding):
    # LlamaIndex skips documents with neither a text nor metadata
    shapes = ImageDocument(image_path=SHAPES, metadata={"source": SHAPES})
    grey = ImageDocument(image=GREY_BASE64, metadata={"source": GREY})
    documents = [shapes, grey, Document(text="a panda")]
    index = MultiModalVectorStoreIndex.from_documents(documents, embed_model=embedding, image_embed_model=embedding)
    retriever = index.as_retriever(image_similarity_top_k=1)
    assert retriever.image_to_image_retrieve(SHAPES)[0].node.image_path == SHAPES
    assert retriever.image_to_image_retrieve(GREY)[0].node.image == GREY_BASE64
    assert retriever.text_retrieve(QueryBundle("a panda"))[0].node.text == "a panda"


async def test_a_pipeline_embeds_nodes_by_image_and_text(embedding, clip):
    documents = [ImageDocument(image_path=SHAPES, text="red"), ImageDocument(image=GREY_BASE64), Document(text="panda")]
    inputs = [
        {"image": SHAPES},
        {"image": GREY},
        {"image": TURNED, "text": "a turned picture"},
        "a panda",
        {"image": SHAPES, "text": "red"},
        {"image": GREY},
        "panda",
    ]
    pipeline = IngestionPipeline(transformations=[embedding])
    expected = clip.encode(inputs).dense
    assert_close([node.embedding for node in pipeline.run(nodes=[*picture_nodes(), *documents])], expected)
    assert_close([node.embedding for node in await pipeline.arun(nodes=[*picture_nodes(), *documents])], expected)


def test_a_node_whose_image_is_a_url_is_refused(embedding):
    with pytest.raises(InvalidInputError, match=r"\[0\]"):
        embedding([ImageNode(image_url="https://127.0.0.1:9/a.png")])
