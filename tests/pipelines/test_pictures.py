"""The sample pipeline finds pictures and texts by either, and encodes again only what changed."""

import shutil

import pytest
from conftest import CLIP, IMAGES
from langchain_core.documents import Document

from bge_integrations.errors import InvalidInputError, WrongModelError
from bge_integrations.pipelines.pictures import picture_store, picture_uri, read_pictures


def test_pictures_and_texts_are_found_by_either(tmp_path, lengths):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    shutil.copy(IMAGES / "shapes.png", folder)
    shutil.copy(IMAGES / "turned.jpg", folder / "more" / "Turned.JPG")
    (folder / "notes.txt").write_text("not a picture")
    pictures = read_pictures(folder)
    assert [document.id for document in pictures] == ["more/Turned.JPG", "shapes.png"]
    texts = [Document("a panda eats bamboo", id="panda", metadata={"source": "text"})]
    store = picture_store([*pictures, *texts], tmp_path / "index", model=CLIP)
    assert len(lengths()) == 3
    for query, source in ((picture_uri(folder / "shapes.png"), "shapes.png"), ("a panda eats bamboo", "text")):
        assert store.as_retriever(search_kwargs={"k": 1}).invoke(query)[0].metadata["source"] == source
    both = store.embeddings.embed_query({"image": folder / "shapes.png", "text": "in blue"})
    assert len(store.similarity_search_by_vector(both, k=3)) == 3

    shutil.copy(IMAGES / "grey.png", folder / "shapes.png")  # a changed picture; the other one is gone
    before = len(lengths())
    store = picture_store([read_pictures(folder)[1], *texts], tmp_path / "index", model=CLIP)
    assert len(lengths()) == before + 1
    found = store.similarity_search(picture_uri(IMAGES / "grey.png"), k=5)
    assert [document.metadata["source"] for document in found] == ["shapes.png", "text"]
    with pytest.raises(WrongModelError):
        picture_store(texts, tmp_path / "index", model="BAAI/BGE-VL-base")


def test_what_can_not_be_indexed_is_refused(tmp_path):
    with pytest.raises(InvalidInputError):
        read_pictures(tmp_path)
    with pytest.raises(InvalidInputError):
        picture_store([], tmp_path / "index", model=CLIP)
    with pytest.raises(InvalidInputError):
        picture_store([Document("a", id="a")], tmp_path / "other", model="pocket")
