"""The LangChain adapters: conformance, real vector stores, copies, pickles, async."""

import asyncio
import copy
import json
import pickle

import numpy as np
import pytest
from conftest import BASE, M3, RERANKER, assert_close
from langchain_chroma import Chroma
from langchain_classic.retrievers import ContextualCompressionRetriever, MultiQueryRetriever
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumpd
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from bge_integrations.errors import CheckpointNotFoundError, InvalidInputError, UnknownModelError
from bge_integrations.langchain import BGEEmbeddings, BGEReranker, RerankedRetriever

TEXTS = [
    "Pandas live in the bamboo forests of China.",
    "BM25 ranks documents by their words.",
    "hi",
    "A dense retriever compares vectors.",
]


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return BGEEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": BASE}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return BGEEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": "pocket"}


class TestRerankedRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        def make(k=None):
            store = InMemoryVectorStore.from_texts(TEXTS, BGEEmbeddings(model=BASE))
            return BGEReranker(model=RERANKER, top_n=k).wrap(store.as_retriever(search_kwargs={"k": 4}))

        return make

    @property
    def retriever_constructor_params(self):
        return {}

    @property
    def retriever_query_example(self):
        return "where do pandas live?"

    @property
    def num_results_arg_name(self):
        return "k"


@pytest.fixture(scope="module")
def embeddings():
    return BGEEmbeddings(model=BASE)


@pytest.fixture(scope="module")
def bge_reranker():
    return BGEReranker(model=RERANKER, top_n=2)


def documents():
    return [Document(text, id=str(i), metadata={"page": i}) for i, text in enumerate(TEXTS)]


def test_defaults():
    assert BGEEmbeddings.model_fields["model"].default == "BAAI/bge-base-en-v1.5"
    assert BGEReranker.model_fields["model"].default == "BAAI/bge-reranker-v2-m3"


def test_vectors_are_the_cores(embeddings, base):
    assert isinstance(embeddings, Embeddings)
    assert_close(embeddings.embed_documents(TEXTS), base.encode(TEXTS).dense)
    assert_close(embeddings.embed_query("hi"), base.encode(["hi"], kind="query").dense[0])
    assert embeddings.embed_documents([]) == []
    assert all(type(value) is float for value in embeddings.embed_query("hi"))


def test_a_query_is_not_a_document_unless_the_instruction_is_off(embeddings):
    assert embeddings.embed_query("hi") != embeddings.embed_documents(["hi"])[0]
    off = BGEEmbeddings(model=BASE, query_instruction="")
    assert_close(off.embed_query("hi"), off.embed_documents(["hi"])[0])
    m3 = BGEEmbeddings(model=M3)
    assert_close(m3.embed_query("hi"), m3.embed_documents(["hi"])[0])


def test_settings_reach_the_core():
    short = BGEEmbeddings(model=BASE, max_length=8, truncate_dim=16, query_instruction="", device="cpu")
    assert len(short.embed_query("hi")) == 16
    with pytest.warns(UserWarning, match="max_length"):
        short.embed_documents(["a b c d e f g h i j k l"])
    assert BGEEmbeddings(model_name=BASE).model == BASE


def test_changed_settings_take_effect():
    changed = BGEEmbeddings(model=BASE)
    before = changed.embed_query("hi")
    changed.query_instruction = ""
    assert changed.embed_query("hi") != before


@pytest.mark.parametrize("text", [None, 3, ["hi"], b"hi"])
def test_bad_queries(embeddings, text):
    with pytest.raises(InvalidInputError, match=type(text).__name__):
        embeddings.embed_query(text)


def test_bad_documents(embeddings):
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        embeddings.embed_documents(["fine", None])
    with pytest.raises(InvalidInputError, match="texts"):
        embeddings.embed_documents("one text")


def test_bad_settings_raise_at_construction():
    with pytest.raises(UnknownModelError, match=r"bge-bas-en.*bge-base-en"):
        BGEEmbeddings(model="bge-bas-en")
    with pytest.raises(CheckpointNotFoundError, match="nowhere"):
        BGEEmbeddings(model="./nowhere")
    with pytest.raises(ValidationError, match="batch_size"):
        BGEEmbeddings(model=BASE, batch_size=3)


@pytest.mark.parametrize("adapter", ["embeddings", "bge_reranker"])
def test_pickles_and_copies_carry_settings_not_weights(adapter, request):
    original = request.getfixturevalue(adapter)
    pickled = pickle.dumps(original)
    assert len(pickled) < 2000
    for twin in (pickle.loads(pickled), copy.copy(original), copy.deepcopy(original), original.model_copy()):
        assert twin == original
        if adapter == "embeddings":
            assert twin.embed_query("hi") == original.embed_query("hi")
        else:
            assert twin.score([("q", "p")]) == original.score([("q", "p")])
    assert type(original)(**original.model_dump()) == original
    assert "Handle" not in str(dumpd(original))


def test_repr_shows_settings_only(embeddings):
    assert "LazyModel" not in repr(embeddings)


async def test_async_methods_do_not_block_the_loop(embeddings, bge_reranker):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    texts = [f"{i} " + "word " * 80 for i in range(1000)]
    vectors = await embeddings.aembed_documents(texts)
    found = await bge_reranker.acompress_documents([Document(text) for text in texts], "word 7")
    ticker.cancel()
    assert ticks > 20
    assert_close(vectors[:3], embeddings.embed_documents(texts[:3]))
    assert len(found) == 2
    assert_close(await embeddings.aembed_query("hi"), embeddings.embed_query("hi"))
    fresh = pickle.loads(pickle.dumps(embeddings))
    assert_close(await fresh.aembed_query("hi"), embeddings.embed_query("hi"))


def test_the_reranker_is_both_of_langchains_kinds(bge_reranker, reranker):
    assert isinstance(bge_reranker, BaseDocumentCompressor)
    assert isinstance(bge_reranker, BaseCrossEncoder)
    pairs = [("q", "p"), ("q", "x y z")]
    assert_close(bge_reranker.score(pairs), reranker.score(pairs))


def test_reranked_documents_are_scored_copies_best_first(bge_reranker, reranker):
    given = documents()
    found = bge_reranker.compress_documents(given, "pandas")
    scores = reranker.score([("pandas", text) for text in TEXTS])
    order = np.argsort(-scores)[:2]
    assert [document.id for document in found] == [str(i) for i in order]
    assert_close([document.metadata["relevance_score"] for document in found], scores[order])
    assert [document.metadata["page"] for document in found] == order.tolist()
    assert given == documents()
    assert bge_reranker.compress_documents([], "pandas") == []


def test_top_n_threshold_and_normalisation(reranker):
    scores = sorted(reranker.score([("pandas", text) for text in TEXTS]).tolist(), reverse=True)

    def kept(**options):
        found = BGEReranker(model=RERANKER, **options).compress_documents(documents(), "pandas")
        return [document.metadata["relevance_score"] for document in found]

    assert_close(kept(top_n=None), scores)
    assert len(kept()) == 3
    assert len(kept(top_n=9)) == 4
    between = (scores[1] + scores[2]) / 2
    assert_close(kept(top_n=None, score_threshold=between), scores[:2])
    assert kept(score_threshold=1e9) == []
    normalised = kept(top_n=None, normalize=True)
    assert_close(normalised, 1 / (1 + np.exp(-np.array(scores))))
    assert len(kept(top_n=None, normalize=True, score_threshold=(normalised[0] + normalised[1]) / 2)) == 1


@pytest.mark.parametrize("top_n", [0, -1])
def test_a_top_n_below_one_is_refused(top_n):
    with pytest.raises(ValidationError, match=f"top_n={top_n}"):
        BGEReranker(model=RERANKER, top_n=top_n)


def test_an_invalid_threshold_and_a_bad_change_are_refused():
    with pytest.raises(ValidationError, match="score_threshold=nan"):
        BGEReranker(model=RERANKER, score_threshold=float("nan"))
    changed = BGEReranker(model=RERANKER)
    with pytest.raises(ValidationError, match="top_n=-1"):
        changed.top_n = -1


def test_bad_documents_to_rerank(bge_reranker):
    with pytest.raises(InvalidInputError, match=r"pairs\[0\]\[0\].*NoneType"):
        bge_reranker.compress_documents(documents(), None)


async def test_wrapped_retriever(bge_reranker, embeddings):
    store = InMemoryVectorStore.from_documents(documents(), embeddings)
    retriever = bge_reranker.wrap(store.as_retriever(search_kwargs={"k": 4}))
    assert isinstance(retriever, RerankedRetriever)
    found = retriever.invoke("where do pandas live?")
    assert len(found) == 2
    assert found == await retriever.ainvoke("where do pandas live?")
    assert len(retriever.invoke("where do pandas live?", k=3)) == 3
    assert len(await retriever.ainvoke("where do pandas live?", k=1)) == 1
    with pytest.raises(InvalidInputError, match="k=0"):
        retriever.invoke("x", k=0)


@pytest.mark.parametrize("variant", ["plain", "retry", "fallbacks", "config", "bind", "fields", "chain", "function"])
async def test_wrap_takes_whatever_retrieves(bge_reranker, embeddings, variant):
    from langchain_core.runnables import ConfigurableField, RunnableLambda

    store = InMemoryVectorStore.from_documents(documents(), embeddings)
    plain = store.as_retriever(search_kwargs={"k": 4})
    fields = plain.configurable_fields(search_kwargs=ConfigurableField(id="kwargs"))
    retriever = {
        "plain": plain,
        "retry": plain.with_retry(),
        "fallbacks": plain.with_fallbacks([plain]),
        "config": plain.with_config(tags=["x"]),
        "bind": plain.bind(),
        "fields": fields,
        "chain": RunnableLambda(lambda query: query.strip()) | plain,
        "function": RunnableLambda(lambda query: plain.invoke(query)),
    }[variant]
    wrapped = bge_reranker.wrap(retriever)
    expected = bge_reranker.wrap(plain).invoke("where do pandas live?")
    assert wrapped.invoke("where do pandas live?") == expected
    assert await wrapped.ainvoke("where do pandas live?") == expected
    assert wrapped.batch(["where do pandas live?"], k=1) == [expected[:1]]
    compressor = ContextualCompressionRetriever(base_compressor=bge_reranker, base_retriever=retriever)
    assert compressor.invoke("where do pandas live?") == expected


async def test_configurable_fields_reach_the_wrapped_retriever(bge_reranker, embeddings):
    from langchain_core.runnables import ConfigurableField, RunnableLambda

    store = InMemoryVectorStore.from_documents(documents(), embeddings)
    retriever = store.as_retriever(search_kwargs={"k": 4}).configurable_fields(
        search_kwargs=ConfigurableField(id="kwargs")
    )
    wrapped = bge_reranker.wrap(retriever)
    one = {"configurable": {"kwargs": {"k": 1}}}
    assert len(wrapped.invoke("pandas")) == 2
    assert len(wrapped.invoke("pandas", one)) == 1
    assert len(await wrapped.ainvoke("pandas", one)) == 1
    assert len(wrapped.with_config(one).invoke("pandas")) == 1
    assert len((RunnableLambda(str) | wrapped).invoke("pandas", one)) == 1


async def test_a_wrapped_chain_must_return_documents(bge_reranker):
    from langchain_core.runnables import RunnableLambda

    for result, name in [("text", "str"), ({"documents": []}, "dict"), (["text"], "list with str"), (None, "NoneType")]:
        wrapped = bge_reranker.wrap(RunnableLambda(lambda _, result=result: result))
        with pytest.raises(InvalidInputError, match=name) as caught:
            wrapped.invoke("x")
        assert caught.value.argument == "retriever"
        with pytest.raises(InvalidInputError, match=name):
            await wrapped.ainvoke("x")
    with pytest.raises(ValidationError):
        bge_reranker.wrap("no retriever")


async def test_documents_that_differ_in_their_score_are_one(bge_reranker, embeddings):
    from langchain_core.runnables import RunnableLambda

    store = InMemoryVectorStore.from_documents(documents(), embeddings)
    everything = bge_reranker.model_copy(update={"top_n": None})
    wrapped = everything.wrap(store.as_retriever(search_kwargs={"k": 4}))
    queries = ["where do pandas live?", "what is BM25?", "hi"]
    scores = {query: [d.metadata["relevance_score"] for d in wrapped.invoke(query)] for query in queries}
    assert scores[queries[0]] != scores[queries[1]]
    for retriever in (
        wrapped,
        ContextualCompressionRetriever(base_compressor=everything, base_retriever=wrapped),
    ):
        several = MultiQueryRetriever(retriever=retriever, llm_chain=RunnableLambda(lambda _: queries))
        for found in (several.invoke("x"), await several.ainvoke("x")):
            assert sorted(d.page_content for d in found) == sorted(d.page_content for d in documents())


def test_only_the_score_is_left_out_of_the_comparison(bge_reranker):
    def ranked(query, **metadata):
        return bge_reranker.compress_documents([Document("pandas", id="1", metadata=metadata)], query)[0]

    assert ranked("pandas", page=1) == ranked("rome", page=1)
    assert ranked("pandas", page=1) != ranked("pandas", page=2)
    document = ranked("pandas", page=1)
    score = document.metadata["relevance_score"]
    assert document.metadata == {"page": 1, "relevance_score": score}
    assert document.metadata != {"page": 1}
    assert {"page": 1, "relevance_score": score} == document.metadata
    assert document != Document("pandas", id="1", metadata={"page": 1})
    for twin in (pickle.loads(pickle.dumps(document)), copy.deepcopy(document)):
        assert twin.metadata == {"page": 1, "relevance_score": score}
    assert json.loads(json.dumps(document.metadata)) == document.metadata
    assert type(document.model_dump()["metadata"]) is dict


def test_the_model_is_also_called_model_name(bge_reranker, embeddings):
    from bge_integrations.langchain.milvus import BGEMilvusSparseEmbeddings
    from bge_integrations.langchain.qdrant import BGESparseEmbeddings

    sparse = [BGESparseEmbeddings(model="pocket"), BGEMilvusSparseEmbeddings(model="pocket")]
    for adapter in (bge_reranker, embeddings, BGEEmbeddings(model_name="pocket"), *sparse):
        assert adapter.model_name == adapter.model
        assert "model_name" not in adapter.model_dump()


def test_in_a_chain(bge_reranker, embeddings):
    from langchain_core.runnables import RunnableLambda

    store = InMemoryVectorStore.from_documents(documents(), embeddings)
    retriever = bge_reranker.wrap(store.as_retriever())
    chain = retriever | RunnableLambda(lambda found: [document.id for document in found])
    assert chain.batch(["pandas", "BM25"]) == [[d.id for d in retriever.invoke(q)] for q in ("pandas", "BM25")]


def test_chroma_stores_the_vectors_on_disk(tmp_path, embeddings):
    settings = {
        "collection_name": "documents",
        "embedding_function": embeddings,
        "persist_directory": str(tmp_path),
        "collection_configuration": {"hnsw": {"space": "cosine"}},
    }
    Chroma(**settings).add_documents(documents())
    found = Chroma(**settings).similarity_search_with_score("hi", k=4)
    assert len(found) == 4
    query = np.array(embeddings.embed_query("hi"))
    for document, distance in found:
        vector = np.array(embeddings.embed_documents([document.page_content])[0])
        assert distance == pytest.approx(1 - query @ vector, abs=1e-5)
