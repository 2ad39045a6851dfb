"""LangChain's own Chroma class with BGEEmbeddings: a collection that another model made is refused without asking."""

import logging

import pytest
from langchain_chroma import Chroma
from langchain_core.embeddings import DeterministicFakeEmbedding

from bge_integrations.errors import WrongModelError
from bge_integrations.langchain import BGEEmbeddings, chroma_check

TEXTS = ["The giant panda eats bamboo.", "Rome lies on the Tiber.", "BM25 counts words."]


@pytest.fixture(scope="module")
def embeddings():
    return BGEEmbeddings(model="pocket")


@pytest.fixture(scope="module")
def other():
    """A model whose vectors are as wide as those of `embeddings`."""
    return BGEEmbeddings(model="pocket", passage_instruction="volcanoes and mountains of Iceland: ")


@pytest.fixture
def collection(tmp_path):
    def open_collection(embeddings):
        return Chroma("documents", embeddings, persist_directory=str(tmp_path))

    return open_collection


def test_a_collection_of_another_model_is_neither_searched_nor_extended(collection, embeddings, other):
    collection(embeddings).add_texts(TEXTS, ids=["1", "2", "3"])
    for call in (
        lambda: collection(other).similarity_search("panda"),
        lambda: collection(other).add_texts(["more"]),
        lambda: collection(other).as_retriever(search_type="mmr").invoke("panda"),
        lambda: Chroma.from_texts(["more"], other, collection_name="documents", client=collection(other)._client),
    ):
        with pytest.raises(WrongModelError, match="documents"):
            call()
    assert collection(embeddings)._collection.count() == 3
    assert len(collection(embeddings).similarity_search("panda", k=3)) == 3


async def test_async_calls_are_checked_too(collection, embeddings, other):
    await collection(embeddings).aadd_texts(TEXTS)
    with pytest.raises(WrongModelError):
        await collection(other).asimilarity_search("panda")
    with pytest.raises(WrongModelError):
        await collection(other).aadd_texts(["more"])


def test_vectors_of_other_libraries_are_noticed(collection, embeddings):
    width = len(embeddings.embed_query("a"))
    collection(DeterministicFakeEmbedding(size=width)).add_texts(TEXTS)
    with pytest.raises(WrongModelError):
        collection(embeddings).similarity_search("panda")


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_precisions_of_the_model_are_accepted(collection, embeddings, dtype):
    collection(embeddings).add_texts(TEXTS)
    same = BGEEmbeddings(model="pocket", dtype=dtype, query_instruction="Find: ")
    collection(same).add_texts(["more"])
    assert len(collection(same).similarity_search("panda", k=4)) == 4


def test_a_collection_is_compared_once(collection, embeddings, monkeypatch):
    store = collection(embeddings)
    compared = []
    get = type(store._collection).get
    monkeypatch.setattr(type(store._collection), "get", lambda *a, **k: compared.append(1) or get(*a, **k))
    store.add_texts(TEXTS)
    store.similarity_search("panda")
    assert compared, "a collection is compared when it has documents"
    done = len(compared)
    store.similarity_search("rome")
    store.add_texts(["more"])
    assert len(compared) == done
    assert embeddings.embed_query("outside of a store")


def test_documents_without_texts_and_failures_are_not_in_the_way(collection, embeddings, monkeypatch, caplog):
    store = collection(embeddings)
    store._collection.add(ids=["1"], embeddings=[[1.0, *[0.0] * (len(embeddings.embed_query("a")) - 1)]])
    assert store.similarity_search_with_score("panda") is not None
    monkeypatch.setattr(chroma_check, "_calling_collection", lambda: object())
    with caplog.at_level(logging.DEBUG, "bge_integrations"):
        store.add_texts(TEXTS)
    assert "could not be checked" in caplog.text
