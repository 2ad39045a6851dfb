"""Dense and sparse together in real Qdrant and Milvus stores, through LangChain and LlamaIndex."""

import copy
import pickle
import subprocess
import sys

import pytest
from conftest import BASE, M3, assert_close
from langchain_milvus import Milvus
from langchain_milvus.utils.sparse import BaseSparseEmbedding as MilvusSparse
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexQdrant
from pydantic import ValidationError
from qdrant_client import AsyncQdrantClient, QdrantClient

from bge_integrations.errors import InvalidInputError
from bge_integrations.langchain import BGEEmbeddings, BGEMilvusSparseEmbeddings, BGESparseEmbeddings
from bge_integrations.llama_index import BGEEmbedding, BGESparseEmbedding

TEXTS = ["Pandas eat bamboo.", "BM25 ranks documents by their words.", "hi", "A dense retriever compares vectors."]
QUERY = "bamboo for pandas"
#: Milvus' sparse search without leaving out the small weights, as langchain-milvus' default would.
EXACT = {"metric_type": "IP", "params": {}}


@pytest.fixture
def lexical(m3):
    """{text: score} of the query."""
    from bge_integrations.scoring import lexical_scores

    query = m3.encode([QUERY], kind="query", sparse=True).sparse
    return dict(zip(TEXTS, lexical_scores(query, m3.encode(TEXTS, sparse=True).sparse)[0].tolist(), strict=True))


def test_langchain_qdrant_hybrid_runs_the_model_once(lengths):
    store = QdrantVectorStore.from_texts(
        TEXTS,
        embedding=BGEEmbeddings(model=M3),
        sparse_embedding=BGESparseEmbeddings(model=M3),
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
    )
    probe = 1  # langchain-qdrant embeds a dummy text to see the dimension
    assert len(lengths()) <= len(TEXTS) + probe
    before = len(lengths())
    found = store.similarity_search(QUERY, k=4)
    assert len(lengths()) == before + 1
    assert {document.page_content for document in found} <= set(TEXTS)


async def test_langchain_qdrant_sparse_scores_are_bge_m3s(lexical):
    store = QdrantVectorStore.from_texts(
        TEXTS,
        sparse_embedding=BGESparseEmbeddings(model=M3),
        retrieval_mode=RetrievalMode.SPARSE,
        location=":memory:",
    )
    found = store.similarity_search_with_score(QUERY, k=4)
    assert found
    for document, score in found:
        assert score == pytest.approx(lexical[document.page_content], rel=1e-5)
    assert [d.page_content for d, _ in await store.asimilarity_search_with_score(QUERY, k=4)] == [
        d.page_content for d, _ in found
    ]


def test_langchain_milvus_hybrid_runs_the_model_once(lengths, tmp_path):
    dense, sparse = BGEEmbeddings(model=M3), BGEMilvusSparseEmbeddings(model=M3)
    store = Milvus.from_texts(
        TEXTS,
        [dense, sparse],
        vector_field=["dense", "sparse"],
        search_params=[{"metric_type": "L2", "params": {}}, EXACT],
        connection_args={"uri": str(tmp_path / "milvus.db")},
        consistency_level="Strong",
    )
    assert len(lengths()) == len(TEXTS)
    found = store.similarity_search(QUERY, k=4, ranker_type="rrf", ranker_params={"k": 60})
    assert len(lengths()) == len(TEXTS) + 1
    assert {document.page_content for document in found} <= set(TEXTS)


def test_langchain_milvus_sparse_scores_are_bge_m3s(tmp_path, lexical):
    store = Milvus.from_texts(
        TEXTS,
        BGEMilvusSparseEmbeddings(model=M3),
        search_params=EXACT,
        connection_args={"uri": str(tmp_path / "milvus.db")},
        consistency_level="Strong",
    )
    found = store.similarity_search_with_score(QUERY, k=4)
    assert found
    for document, score in found:
        assert score == pytest.approx(lexical[document.page_content], rel=1e-4)


@pytest.fixture
def llama_index_store():
    sparse = BGESparseEmbedding(model_name=M3)
    return LlamaIndexQdrant(
        "documents",
        client=QdrantClient(":memory:"),
        aclient=AsyncQdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=sparse.sparse_doc_fn,
        sparse_query_fn=sparse.sparse_query_fn,
    )


def test_llama_index_qdrant_hybrid_runs_the_model_once(lexical, lengths, llama_index_store):
    nodes = [TextNode(text=text, id_=f"00000000-0000-0000-0000-00000000000{i}") for i, text in enumerate(TEXTS)]
    context = StorageContext.from_defaults(vector_store=llama_index_store)
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=BGEEmbedding(model_name=M3))
    assert len(lengths()) == len(TEXTS)
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=4, sparse_top_k=4)
    found = retriever.retrieve(QUERY)
    assert len(lengths()) == len(TEXTS) + 1
    assert {node.text for node in found} <= set(TEXTS)
    query = VectorStoreQuery(query_str=QUERY, mode=VectorStoreQueryMode.SPARSE, similarity_top_k=4)
    answer = llama_index_store.query(query)
    assert answer.nodes
    for node, score in zip(answer.nodes, answer.similarities, strict=True):
        assert score == pytest.approx(lexical[node.get_content()], rel=1e-5)


# the adapters themselves


def test_they_are_of_the_stores_kinds(m3):
    qdrant, milvus = BGESparseEmbeddings(model=M3), BGEMilvusSparseEmbeddings(model=M3)
    assert isinstance(qdrant, SparseEmbeddings)
    assert isinstance(milvus, MilvusSparse)
    expected = m3.encode(TEXTS, kind="passage", sparse=True).sparse
    vectors, dicts = qdrant.embed_documents(TEXTS), milvus.embed_documents(TEXTS)
    for vector, found, row in zip(vectors, dicts, expected, strict=True):
        assert vector.indices == row.indices.tolist() == list(found)
        assert_close(vector.values, row.values)
        assert_close(list(found.values()), row.values)
    assert BGESparseEmbeddings.model_fields["model"].default == "BAAI/bge-m3"
    assert BGESparseEmbedding.model_fields["model_name"].default == "BAAI/bge-m3"


@pytest.mark.parametrize("make", [BGESparseEmbeddings, BGEMilvusSparseEmbeddings])
async def test_async_copies_and_mistakes(make):
    sparse = make(model=M3)
    assert await sparse.aembed_documents(TEXTS) == sparse.embed_documents(TEXTS)
    assert await sparse.aembed_query(QUERY) == sparse.embed_query(QUERY)
    pickled = pickle.dumps(sparse)
    assert len(pickled) < 2000
    for twin in (pickle.loads(pickled), copy.deepcopy(sparse), sparse.model_copy()):
        assert twin == sparse
        assert twin.embed_query(QUERY) == sparse.embed_query(QUERY)
    with pytest.raises(InvalidInputError, match="no sparse head"):
        make(model=BASE)
    with pytest.raises(ValidationError, match="batch_size"):
        make(model=M3, batch_size=3)
    with pytest.raises(InvalidInputError, match="one str"):
        sparse.embed_query(None)


async def test_llama_index_sparse_embedding(m3):
    sparse = BGESparseEmbedding(model_name=M3)
    expected = m3.encode(TEXTS, kind="passage", sparse=True).sparse.to_dicts()
    assert sparse.get_text_embedding_batch(TEXTS) == expected
    assert await sparse.aget_text_embedding_batch(TEXTS) == expected
    assert sparse.get_text_embedding(TEXTS[0]) == await sparse.aget_text_embedding(TEXTS[0])
    assert sparse.get_query_embedding(QUERY) == await sparse.aget_query_embedding(QUERY)
    query = sparse.get_query_embedding(QUERY)
    product = sum(weight * expected[0].get(token, 0.0) for token, weight in query.items())
    assert sparse.similarity(query, expected[0]) == pytest.approx(product)
    assert product > 0
    for twin in (pickle.loads(pickle.dumps(sparse)), BGESparseEmbedding(**sparse.model_dump()), copy.deepcopy(sparse)):
        assert twin.get_query_embedding(QUERY) == query
    with pytest.raises(ValidationError, match="batch_size"):
        BGESparseEmbedding(model_name=M3, batch_size=3)


async def test_llama_index_sparse_embedding_sends_events():
    from llama_index.core.instrumentation.events.embedding import SparseEmbeddingEndEvent, SparseEmbeddingStartEvent
    from llama_index_contract import _recorded

    sparse = BGESparseEmbedding(model_name=M3)
    with _recorded(SparseEmbeddingStartEvent, SparseEmbeddingEndEvent) as events:
        sparse.get_text_embedding_batch(TEXTS)
        await sparse.aget_query_embedding(QUERY)
    assert [type(event).__name__ for event in events] == ["SparseEmbeddingStartEvent", "SparseEmbeddingEndEvent"] * 2
    assert events[0].model_dict["model_name"] == M3


@pytest.mark.parametrize(
    ("missing", "asked", "pip"),
    [
        ("langchain_qdrant", "BGESparseEmbeddings", "pip install langchain-qdrant"),
        ("langchain_milvus", "BGEMilvusSparseEmbeddings", "pip install langchain-milvus"),
    ],
)
def test_only_the_adapter_of_a_missing_package_is_missing(missing, asked, pip):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import bge_integrations.langchain as here
from bge_integrations.langchain import BGEEmbeddings, BGEReranker
assert "langchain_qdrant" not in sys.modules or sys.modules["langchain_qdrant"] is None
try:
    here.{asked}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert pip in done.stdout
