"""Images in Chroma: collections of documents, images and URIs, reopened and guarded like those of texts."""

import chromadb
import numpy as np
import pytest
from chromadb.utils.data_loaders import ImageLoader
from conftest import BASE, CLIP, IMAGES, VISUALIZED, assert_close
from PIL import Image

from bge_integrations.chroma import BGEEmbeddingFunction, BGEImageLoader, BGEVisualEmbeddingFunction
from bge_integrations.errors import InvalidInputError, WrongModelError

SHAPES, PALETTE, TURNED = (str(IMAGES / name) for name in ("shapes.png", "palette.png", "turned.jpg"))


@pytest.fixture(scope="module")
def function():
    return BGEVisualEmbeddingFunction(CLIP)


def test_a_text_model_is_refused():
    with pytest.raises(InvalidInputError, match="BGE-VL-base"):
        BGEVisualEmbeddingFunction(BASE)


def test_vectors_are_the_cores(function, clip):
    pixels = np.asarray(Image.open(SHAPES))
    expected = clip.encode(["red", {"image": SHAPES}]).dense
    for image in (pixels, pixels.astype(np.int64)):
        assert_close(function(["red", image]), expected)
        assert_close(function.embed_query(["red", image]), expected)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.full((4, 4, 3), 256), np.full((4, 4), -1), np.zeros((4, 4), bool), np.zeros((0, 4))],
)
def test_an_array_that_is_not_an_image_is_named(function, image):
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        function(["fine", image])


def test_the_loader_reads_colours_where_chromas_reads_numbers():
    paths = sorted(map(str, IMAGES.iterdir()))
    for path, image in zip(paths, BGEImageLoader()([*paths, None]), strict=False):
        assert image.dtype == np.uint8
        with Image.open(path) as opened:
            if opened.mode in ("RGB", "L"):
                assert np.array_equal(image, ImageLoader()([path])[0])
            else:
                assert np.array_equal(image[..., :3], np.asarray(opened.convert("RGB")))
    assert BGEImageLoader()([None]) == [None]
    for bad in ("missing.png", __file__):
        with pytest.raises(InvalidInputError, match=r"uris\[1\]"):
            BGEImageLoader()([SHAPES, bad])


def test_a_collection_of_texts_images_and_uris_is_reopened_without_its_function(function, tmp_path):
    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("pictures", embedding_function=function, data_loader=BGEImageLoader())
    collection.add(ids=["shapes", "palette"], uris=[SHAPES, PALETTE])
    collection.add(ids=["turned"], images=[np.asarray(Image.open(TURNED))])
    collection.add(ids=["panda"], documents=["a panda"])
    again = chromadb.PersistentClient(str(tmp_path)).get_collection("pictures", data_loader=BGEImageLoader())
    for stored in (collection, again):
        assert stored.query(query_uris=[PALETTE], n_results=1)["ids"] == [["palette"]]
        assert stored.query(query_images=[np.asarray(Image.open(TURNED))], n_results=1)["ids"] == [["turned"]]
        assert stored.query(query_texts=["a panda"], n_results=1)["ids"] == [["panda"]]
    found = again.get(ids=["shapes"], include=["uris", "data"])
    assert found["uris"] == [SHAPES]
    assert found["data"][0].shape == np.asarray(Image.open(SHAPES)).shape


def test_another_model_or_kind_of_function_is_refused(function, tmp_path):
    client = chromadb.PersistentClient(str(tmp_path))
    client.create_collection("pictures", embedding_function=function).add(ids=["1"], documents=["a"])
    config = function.get_config()
    assert config["model_name"] == CLIP
    other = client.get_collection("pictures", embedding_function=BGEVisualEmbeddingFunction(VISUALIZED))
    with pytest.raises(WrongModelError):
        other.query(query_texts=["a"])
    with pytest.raises(ValueError, match="bge_integrations_visual"):
        client.get_collection("pictures", embedding_function=BGEEmbeddingFunction(CLIP))
