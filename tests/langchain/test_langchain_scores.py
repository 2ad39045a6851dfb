"""Scores in the metadata of LangChain results: always there, ignored when documents are compared, never stored."""

import copy
import json
import pickle

import pytest
from langchain_classic.retrievers import EnsembleRetriever, MultiQueryRetriever
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_text_splitters import CharacterTextSplitter

from bge_integrations.adapter_kit.scored_metadata import found_metadata, reranked_metadata
from bge_integrations.index import M3Index
from bge_integrations.langchain import BGEM3Retriever, BGEM3VectorStore, BGEReranker

TEXTS = ["The giant panda eats bamboo.", "Rome lies on the Tiber.", "BM25 counts words."]
QUERY = "What does a panda eat?"
PARTS = {"dense": "dense_score", "sparse": "sparse_score", "multi_vector": "multi_vector_score"}


def documents():
    return [Document(text, id=str(i), metadata={"page": i}) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def index():
    with M3Index.open(":memory:", "pocket") as index:
        BGEM3VectorStore(index).add_documents(documents())
        yield index


def scored(hits):
    return [
        {**hit.metadata, "relevance_score": hit.score, **{PARTS[name]: score for name, score in hit.scores.items()}}
        for hit in hits
    ]


def metadata(found):
    return [{**document.metadata} for document in found]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse", "multi_vector"])
async def test_every_search_gives_the_score_and_its_parts(index, mode):
    expected = scored(index.search(QUERY, 3, mode=mode))
    retriever = BGEM3Retriever.from_index(index, k=3, mode=mode)
    assert metadata(retriever.invoke(QUERY)) == metadata(await retriever.ainvoke(QUERY)) == expected
    store = BGEM3VectorStore(index, mode=mode)
    assert metadata(store.similarity_search(QUERY, 3)) == expected
    assert metadata(document for document, _ in await store.asimilarity_search_with_score(QUERY, 3)) == expected
    diverse = store.max_marginal_relevance_search(QUERY, 3)
    assert sorted(metadata(diverse), key=str) == sorted(expected, key=str)
    assert metadata(store.get_by_ids(["1"])) == [{"page": 1}]


async def test_searching_by_vector_gives_the_dense_score(index):
    store = BGEM3VectorStore(index)
    vector = store.embeddings.embed_query(QUERY)
    expected = scored(index.search_by_vector(vector, 2))
    assert metadata(store.similarity_search_by_vector(vector, 2)) == expected
    assert metadata(await store.amax_marginal_relevance_search_by_vector(vector, 2, 2, 1.0)) == expected
    assert all(found["dense_score"] == found["relevance_score"] for found in expected)


async def test_a_reranker_keeps_the_parts_and_the_score_of_the_retrieval(index):
    reranker = BGEReranker(model="pocket", top_n=2)
    hits = index.search(QUERY, 20)
    before = {hit.id: metadata for hit, metadata in zip(hits, scored(hits), strict=True)}
    retriever = BGEM3Retriever.from_index(index, k=2, reranker=reranker)
    for found in (retriever.invoke(QUERY), reranker.wrap(BGEM3Retriever.from_index(index)).invoke(QUERY)):
        scores = reranker.score([(QUERY, document.page_content) for document in found])
        for document, score in zip(found, scores, strict=True):
            old = before[document.id]
            expected = {**old, "relevance_score": pytest.approx(score), "retrieval_score": old["relevance_score"]}
            assert {**document.metadata} == expected
    twice = reranker.compress_documents(retriever.invoke(QUERY), QUERY)
    assert [d.metadata["retrieval_score"] for d in twice] == [before[d.id]["relevance_score"] for d in twice]


def test_documents_that_differ_in_scores_are_one_document(index):
    retriever = BGEM3Retriever.from_index(index, k=3)
    one, other = retriever.invoke(QUERY), {d.id: d for d in retriever.invoke("the Tiber")}
    assert all(document == other[document.id] for document in one)
    assert {d.metadata["relevance_score"] for d in one} != {d.metadata["relevance_score"] for d in other.values()}
    assert sorted(one, key=lambda d: d.id) == documents(), "a store returns documents equal to those it was given"
    assert documents()[0] == other["0"]
    assert documents()[1] != other["0"]
    for wrapped in (retriever, BGEReranker(model="pocket").wrap(retriever)):
        several = MultiQueryRetriever(
            retriever=wrapped, llm_chain=RunnableLambda(lambda _: [QUERY, "the Tiber", "BM25"])
        )
        assert sorted(d.id for d in several.invoke("x")) == ["0", "1", "2"]
    ensemble = EnsembleRetriever(retrievers=[retriever, BGEReranker(model="pocket").wrap(retriever)])
    assert sorted(d.id for d in ensemble.invoke(QUERY)) == ["0", "1", "2"]


def test_scored_metadata_is_a_dict():
    found = found_metadata({"page": 1}, 0.5, {"dense": 0.25})
    same = {"page": 1, "relevance_score": 0.5, "dense_score": 0.25}
    for twin in (found, pickle.loads(pickle.dumps(found)), copy.deepcopy(found), json.loads(json.dumps(found))):
        assert dict(twin) == same
    assert found == {"page": 1} == found
    assert found == found_metadata({"page": 1}, 0.1, {}) == reranked_metadata({"page": 1}, 3.0)
    assert found != {"page": 2}
    assert found != [1]
    assert reranked_metadata({"page": 1}, 3.0) != {"page": 1}
    assert repr(found) == repr(same)
    with pytest.raises(TypeError):
        hash(found)


async def test_results_that_are_added_again_leave_no_scores(index):
    found = BGEReranker(model="pocket").compress_documents(BGEM3Retriever.from_index(index).invoke(QUERY), QUERY)
    stored = {str(i): {"page": i} for i in range(3)}
    for adapter in (BGEM3VectorStore, BGEM3Retriever):
        made = adapter.from_documents(found, model="pocket")
        assert {each.id: each.metadata for each in made.index} == stored
        made.close()
    with M3Index.open(":memory:", "pocket") as fresh:
        store = BGEM3VectorStore(fresh)
        store.add_documents(found[:2])
        await store.aadd_documents(found)
        assert {each.id: each.metadata for each in fresh} == stored


def test_copies_of_scores_are_not_stored_either_and_that_is_said(index):
    found = BGEM3Retriever.from_index(index, k=1).invoke(QUERY)
    parts = CharacterTextSplitter(separator=" ", chunk_size=10, chunk_overlap=0).split_documents(found)
    assert len(parts) > 1
    with M3Index.open(":memory:", "pocket") as fresh:
        store = BGEM3VectorStore(fresh)
        with pytest.warns(UserWarning, match="dense_score"):
            store.add_texts(["a"], [{"page": 7, "dense_score": 1.0}])
        with pytest.warns(UserWarning, match="relevance_score"):
            store.add_documents(parts)  # a splitter copies the metadata into plain dicts
        assert {tuple(each.metadata) for each in fresh} == {("page",)}


def test_the_model_has_a_name(index):
    assert BGEM3Retriever.from_index(index).model_name == BGEM3VectorStore(index).model_name == "pocket"
