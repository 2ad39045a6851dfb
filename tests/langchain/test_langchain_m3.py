"""M3 retrieval in LangChain: the retriever and the vector store over M3Index."""

import copy
import pickle

import numpy as np
import pytest
from conftest import BASE, M3, RERANKER
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from pydantic import ValidationError

from bge_integrations.errors import (
    ClosedError,
    IndexNotFoundError,
    InvalidInputError,
    WrongModelError,
)
from bge_integrations.index import M3Index
from bge_integrations.langchain import BGEEmbeddings, BGEM3Retriever, BGEM3VectorStore, BGEReranker
from bge_integrations.scoring import hybrid_scores

TEXTS = [
    "The giant panda is a bear that lives in China.",
    "大熊猫生活在中国的竹林里。",
    "BM25 scores documents by the words they share with the query.",
    "Dense retrievers compare vectors.",
]
QUERY = "where do pandas live?"


def documents():
    return [Document(text, id=str(i), metadata={"page": i}) for i, text in enumerate(TEXTS)]


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return BGEM3Retriever.from_texts

    @property
    def retriever_constructor_params(self):
        return {"texts": TEXTS, "model": M3}

    @property
    def retriever_query_example(self):
        return QUERY

    @property
    def num_results_arg_name(self):
        return "k"


class TestRerankingRetriever(TestRetriever):
    @property
    def retriever_constructor_params(self):
        return {**super().retriever_constructor_params, "reranker": BGEReranker(model=RERANKER)}


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture(params=["hybrid", "dense"])
    def vectorstore(self, request):
        with M3Index.open(":memory:", "pocket") as index:
            yield BGEM3VectorStore(index, mode=request.param)


@pytest.fixture
def store():
    with M3Index.open(":memory:", "pocket") as index:
        store = BGEM3VectorStore(index)
        store.add_documents(documents())
        yield store


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 0), (0, 0.3, 1)])
async def test_ranks_by_all_three_scores(m3, weights):
    retriever = BGEM3Retriever.from_documents(documents(), model=M3, weights=weights, multi_vectors="float32")
    encoded = m3.encode([QUERY], kind="query", sparse=True, multi_vector=True)
    scores = hybrid_scores(encoded, m3.encode(TEXTS, kind="passage", sparse=True, multi_vector=True), weights).hybrid[0]
    found = retriever.invoke(QUERY)
    assert [document.id for document in found] == [str(i) for i in np.argsort(-scores)]
    assert [document.metadata for document in found] == [{"page": i} for i in np.argsort(-scores)]
    assert await retriever.ainvoke(QUERY) == found
    assert retriever.invoke(QUERY, k=1) == await retriever.ainvoke(QUERY, k=1) == found[:1]


async def test_each_call_can_override_the_settings():
    retriever = BGEM3Retriever.from_documents(documents(), model=M3, filter={"page": {"$lt": 3}}, k=2)
    assert len(retriever.invoke(QUERY)) == 2
    assert {d.metadata["page"] for d in retriever.invoke(QUERY, k=4)} == {0, 1, 2}
    assert {d.metadata["page"] for d in retriever.invoke(QUERY, filter={"page": {"$gt": 1}})} == {2, 3}
    assert {d.metadata["page"] for d in await retriever.ainvoke(QUERY, filter={"page": 3})} == {3}
    index = retriever.index
    for mode in ("dense", "sparse", "multi_vector"):
        expected = [hit.id for hit in index.search(QUERY, 4, mode=mode)]
        retriever.filter = None
        assert [d.id for d in retriever.invoke(QUERY, k=4, mode=mode)] == expected
    expected = [hit.id for hit in index.search(QUERY, 4, weights=(0, 1, 0))]
    assert [d.id for d in await retriever.ainvoke(QUERY, k=4, weights=(0, 1, 0))] == expected
    retriever.fusion, retriever.candidates = "rrf", 3
    assert [d.id for d in retriever.invoke(QUERY)] == [h.id for h in index.search(QUERY, 2, fusion="rrf", candidates=3)]


async def test_reranks_what_it_finds():
    reranker = BGEReranker(model=RERANKER, top_n=1)
    retriever = BGEM3Retriever.from_documents(documents(), model=M3, reranker=reranker, k=3, fetch_k=4)
    scores = dict(zip(TEXTS, reranker.score([(QUERY, text) for text in TEXTS]), strict=True))
    found = retriever.invoke(QUERY)
    assert [d.page_content for d in found] == sorted(TEXTS, key=scores.get, reverse=True)[:3]
    assert [d.metadata["relevance_score"] for d in found] == pytest.approx([scores[d.page_content] for d in found])
    assert await retriever.ainvoke(QUERY) == found
    retriever.fetch_k = 1
    assert len(retriever.invoke(QUERY, k=2)) == 2, "at least k are fetched"


def test_copies_and_mistakes():
    retriever = BGEM3Retriever.from_texts(
        TEXTS, metadatas=[{"n": i} for i in range(4)], ids=list("abcd"), model=M3, k=2
    )
    found = retriever.invoke("pandas")
    assert {document.id for document in found} <= set("abcd")
    for twin in (copy.copy(retriever), retriever.model_copy(update={"k": 1})):
        assert twin.invoke("pandas") == found[: twin.k]
    with pytest.raises(TypeError, match="M3Index"):
        pickle.dumps(retriever)
    found[0].metadata["n"] = "changed"
    assert retriever.invoke("pandas")[0].metadata["n"] != "changed"
    for made in (BGEM3Retriever, BGEM3VectorStore):
        with pytest.raises(InvalidInputError, match=r"documents\[1\] is str"):
            made.from_documents([Document("a"), "b"], model=M3)
    with pytest.raises(InvalidInputError, match=r"\bids\b"):
        BGEM3Retriever.from_texts(TEXTS, ids=iter("a"), model=M3)
    with pytest.raises(InvalidInputError, match="texts"):
        BGEM3Retriever.from_texts("one text", model=M3)
    for k in (0, -1, "3"):
        with pytest.raises(InvalidInputError) as caught:
            retriever.invoke("pandas", k=k)
        assert caught.value.argument == "k"
    for wrong in ({"k": 0}, {"mode": "bm25"}, {"weights": (1, 1)}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            BGEM3Retriever.from_texts(TEXTS, model=M3, **wrong)
    with pytest.raises(InvalidInputError, match=r"modle; .*model"):
        BGEM3Retriever.from_texts(TEXTS, modle=M3)
    with pytest.raises(InvalidInputError, match=r"topk"):
        BGEM3VectorStore.from_texts(TEXTS, model=M3, topk=1)
    with pytest.raises(InvalidInputError, match=r"bge-base-en-v1\.5"):
        BGEM3Retriever.from_texts(TEXTS, model=BASE, multi_vectors="float16")
    with pytest.raises(InvalidInputError, match="model_name"):
        BGEM3Retriever.from_texts(TEXTS, model=BASE, model_name=M3)
    with pytest.raises(InvalidInputError, match="NoneType"):
        retriever.invoke(None)
    with pytest.raises(InvalidInputError, match="weights"):
        BGEM3Retriever.from_texts(TEXTS, model=M3, weights=(0, 0, 0)).invoke("pandas")
    assert BGEM3Retriever.from_texts([], model_name=M3).invoke("pandas") == []
    with pytest.raises(ValidationError, match="frozen"):
        retriever.index = None
    retriever.index.close()
    with pytest.raises(ClosedError):
        retriever.invoke("pandas")


def test_the_default_model_of_an_embedding_is_not_replaced(run_as_user):
    run_as_user("""
from bge_integrations.langchain import BGEEmbeddings, BGEM3VectorStore
index = BGEM3VectorStore.from_texts(["a"], BGEEmbeddings()).index
assert (index.embedder.name, index.representations) == ("BAAI/bge-base-en-v1.5", ("dense",))
""")


def test_stored_in_a_folder(tmp_path):
    retriever = BGEM3Retriever.from_documents(documents(), path=tmp_path / "index", model=M3)
    found = retriever.invoke(QUERY)
    (tmp_path / "link").symlink_to(tmp_path / "index")
    for same in (tmp_path / "index", tmp_path / "link", tmp_path / "link" / ".." / "index"):
        shared = BGEM3Retriever.from_texts([], path=same, model=M3)
        assert shared.invoke(QUERY) == found
        shared.close()
    retriever.index.close()
    with pytest.raises(WrongModelError):
        BGEM3Retriever.from_texts([], path=tmp_path / "index", model="pocket")
    with pytest.raises(ValidationError, match="k"):
        BGEM3Retriever.from_texts(["lost?"], path=tmp_path / "index", model=M3, k=0)
    again = BGEM3Retriever.load(tmp_path / "index", k=4)
    assert again.invoke(QUERY) == found
    assert again._get_ls_params()["ls_embedding_model"] == again.index.embedder.name
    again.close()
    store = BGEM3VectorStore.load(tmp_path / "index")
    assert store.similarity_search(QUERY) == found
    store.close()
    for opened in (BGEM3Retriever, BGEM3VectorStore):
        with pytest.raises(IndexNotFoundError):
            opened.load(tmp_path / "typo")
    with M3Index.open(tmp_path / "index") as index:
        assert BGEM3Retriever.from_index(index).invoke(QUERY) == found


def test_reports_its_model():
    params = BGEM3Retriever.from_texts(TEXTS, model=M3)._get_ls_params()
    assert params["ls_retriever_name"] == "bgem3"
    assert params["ls_embedding_provider"] == "bge_integrations"
    assert params["ls_embedding_model"].endswith("bge-m3")


async def test_store_scores_and_filters(store):
    hits = store.index.search(QUERY, 3)
    with_scores = store.similarity_search_with_score(QUERY, k=3)
    assert [(d.id, score) for d, score in with_scores] == [(hit.id, hit.score) for hit in hits]
    assert await store.asimilarity_search_with_score(QUERY, k=3) == with_scores
    assert store.similarity_search(QUERY, k=3) == [d for d, _ in with_scores]
    assert {d.id for d in store.similarity_search(QUERY, filter={"page": {"$in": [1, 2]}})} == {"1", "2"}
    sparse = [hit.id for hit in store.index.search(QUERY, mode="sparse")]
    assert [d.id for d in await store.asimilarity_search(QUERY, mode="sparse")] == sparse
    vector = store.embeddings.embed_query(QUERY)
    assert await store.embeddings.aembed_query(QUERY) == vector
    dense = [hit.id for hit in store.index.search(QUERY, 4, mode="dense")]
    assert [d.id for d in store.similarity_search_by_vector(vector)] == dense
    assert [d.id for d in await store.asimilarity_search_by_vector(vector, k=2)] == dense[:2]
    assert store.embeddings.embed_documents(TEXTS) == await store.embeddings.aembed_documents(TEXTS)
    with pytest.raises(TypeError, match="colour"):
        store.similarity_search(QUERY, colour="red")


async def test_store_relevance_scores(store):
    for mode in ("dense", "hybrid", "sparse"):
        relevant = store.similarity_search_with_relevance_scores(TEXTS[0], k=4, mode=mode)
        assert all(0 <= score <= 1 for _, score in relevant)
        assert relevant[0][0].id == "0"
    threshold = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9, "k": 4}
    )
    assert [d.id for d in threshold.invoke(TEXTS[0])] == [d.id for d in await threshold.ainvoke(TEXTS[0])] == ["0"]


async def test_store_diversity(store):
    store.add_documents([Document("The giant panda is a bear living in China.", id="twin")])
    assert {d.id for d in store.similarity_search(TEXTS[0], k=2)} == {"0", "twin"}
    diverse = store.max_marginal_relevance_search(TEXTS[0], k=2, fetch_k=5, lambda_mult=0.3)
    assert diverse[0].id == "0"
    assert diverse[1].id != "twin"
    assert await store.amax_marginal_relevance_search(TEXTS[0], k=2, fetch_k=5, lambda_mult=0.3) == diverse
    vector = store.embeddings.embed_query(TEXTS[0])
    by_vector = store.max_marginal_relevance_search_by_vector(vector, k=2, fetch_k=5, lambda_mult=0.3)
    assert by_vector[0].id == "0"
    assert await store.amax_marginal_relevance_search_by_vector(vector, k=2, fetch_k=5, lambda_mult=0.3) == by_vector
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 5, "lambda_mult": 0.3})
    assert retriever.invoke(TEXTS[0]) == diverse
    assert store.max_marginal_relevance_search(QUERY, filter={"page": 99}) == []


async def test_store_has_the_usual_constructors(tmp_path):
    embedding = BGEEmbeddings(model="pocket", max_length=64)
    store = BGEM3VectorStore.from_documents(documents(), embedding, path=tmp_path / "index", mode="dense")
    assert store.index.embedder.max_length == 64
    assert store.similarity_search(QUERY) == BGEM3VectorStore(store.index, mode="dense").similarity_search(QUERY)
    assert store.delete(["0"]) is True
    assert await store.adelete(filter={"page": {"$gte": 2}}) is True
    assert store.get_by_ids(["1", "0"]) == await store.aget_by_ids(["1"]) == [documents()[1]]
    with pytest.raises(InvalidInputError, match="filter"):
        store.delete()
    store.index.close()
    again = await BGEM3VectorStore.afrom_texts(["Rome"], path=tmp_path / "index", ids=["r"])
    assert {d.id for d in again.similarity_search("Rome")} == {"r", "1"}
    again.index.close()
    with pytest.raises(InvalidInputError, match="BGEEmbeddings"):
        BGEM3VectorStore(embedding)
    with pytest.raises(InvalidInputError, match="DeterministicFakeEmbedding"):
        BGEM3VectorStore.from_texts(TEXTS, DeterministicFakeEmbedding(size=6))
    with pytest.raises(InvalidInputError, match="query_instruction"):
        BGEM3VectorStore.from_texts(TEXTS, BGEEmbeddings(model="pocket", query_instruction="Find: "))
    store = await BGEM3VectorStore.afrom_documents(documents(), model="pocket")
    assert len(store.index) == 4


def test_store_under_langchains_indexing(store):
    records = InMemoryRecordManager("documents")
    records.create_schema()
    pages = [Document(text, metadata={"source": f"file {i}"}) for i, text in enumerate(TEXTS)]
    run = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(pages, records, store, **run)["num_added"] == 4
    assert index(pages, records, store, **run)["num_skipped"] == 4
    changed = [*pages[:3], Document("Something else.", metadata={"source": "file 3"})]
    result = index(changed, records, store, **run)
    assert (result["num_added"], result["num_deleted"]) == (1, 1)
    assert len(store.index) == 8, "four of the fixture, four of these"


def test_an_index_of_dense_vectors_and_its_defaults():
    for store in (BGEM3Retriever, BGEM3VectorStore):
        opened = store.from_texts(TEXTS, model=BASE)
        expected = [hit.text for hit in opened.index.search("pandas", 4, mode="dense")]
        found = opened.invoke("pandas") if store is BGEM3Retriever else opened.similarity_search("pandas")
        assert [document.page_content for document in found] == expected
        opened.close()
    with BGEM3Retriever.from_texts(TEXTS, model=M3).index as index:
        index.set_defaults(mode="sparse")
        expected = [hit.text for hit in index.search("pandas", 4, mode="sparse")]
        for found in (
            BGEM3Retriever.from_index(index).invoke("pandas"),
            BGEM3VectorStore(index).similarity_search("pandas"),
        ):
            assert [document.page_content for document in found] == expected
