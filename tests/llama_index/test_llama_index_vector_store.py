"""BGEM3VectorStore: LlamaIndex's pipelines and indexes, query modes, filters with LlamaIndex's meaning, versions."""

import asyncio
import pickle
import threading

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, SimpleVectorStore
from llama_index.core.vector_stores.types import FilterCondition, VectorStoreQuery
from qdrant_client import QdrantClient

from bge_integrations.errors import IndexNotFoundError, InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.llama_index import BGEEmbedding, BGEM3Retriever, BGEM3VectorStore

PANDAS = "Giant pandas live in the bamboo forests of China. A panda eats up to forty kilograms of bamboo a day."
ROME = "Rome lies on the river Tiber. The Colosseum is an old amphitheatre in Rome."
QUERY = "What does a panda eat?"
PARTS = {"dense_score", "sparse_score", "multi_vector_score"}


def documents(pandas=PANDAS, rome=ROME):
    return [Document(text=pandas, id_="pandas"), Document(text=rome, id_="rome")]


def pipeline(store, *, embed_model=None, **settings):
    splitter = SentenceSplitter(chunk_size=16, chunk_overlap=0)
    return IngestionPipeline(transformations=[splitter, embed_model or store.embed_model], **settings)


@pytest.fixture
def store():
    with BGEM3VectorStore.open(model="pocket") as store:
        yield store


def texts(store):
    return sorted(node.text for node in store.get_nodes())


def test_upserts_replace_the_chunks_of_a_changed_document(store):
    steps = pipeline(store, vector_store=store, docstore=SimpleDocumentStore())
    steps.run(documents=documents())
    before = texts(store)
    assert len(before) >= 4
    assert not steps.run(documents=documents())
    steps.run(documents=documents(pandas="Pandas sleep."))
    assert texts(store) == sorted(["Pandas sleep.", *(text for text in before if "Rome" in text)])


async def test_a_pipeline_without_a_docstore_leaves_no_old_chunks_either(store):
    steps = pipeline(store, vector_store=store)
    await steps.arun(documents=documents())
    before = texts(store)
    await steps.arun(documents=documents(pandas="Pandas sleep."))
    expected = sorted(["Pandas sleep.", *(text for text in before if "Rome" in text)])
    assert texts(store) == expected
    pipeline(store, vector_store=store).run(documents=documents(pandas="Pandas sleep."))
    assert texts(store) == expected, "the unchanged documents have new node ids"


def test_documents_that_are_gone_are_deleted(store):
    strategy = {"docstore": SimpleDocumentStore(), "docstore_strategy": DocstoreStrategy.UPSERTS_AND_DELETE}
    steps = pipeline(store, vector_store=store, **strategy)
    steps.run(documents=documents())
    steps.run(documents=documents()[:1])
    assert {node.ref_doc_id for node in store.get_nodes()} == {"pandas"}


def test_any_embedding_model_of_a_pipeline_is_accepted_and_ignored(store):
    pipeline(store, embed_model=BGEEmbedding("pocket"), vector_store=store).run(documents=documents())
    mine = texts(store)
    store.clear()
    pipeline(store, vector_store=store).run(documents=documents())
    assert texts(store) == mine
    assert not store.get_nodes()[0].embedding


async def test_query_modes_are_those_of_the_index(store):
    pipeline(store, vector_store=store).run(documents=documents())
    index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
    for mode, ours in (("default", "dense"), ("sparse", "sparse"), ("hybrid", "hybrid")):
        retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
        nodes = retriever.retrieve(QUERY)
        hits = store.client.search(QUERY, 3, mode=ours)
        assert [(node.node_id, node.score) for node in nodes] == [(hit.id, hit.score) for hit in hits]
        for node, hit in zip(nodes, hits, strict=True):
            scores = {f"{name}_score": score for name, score in hit.scores.items()}
            assert {**node.metadata} == {"relevance_score": hit.score, **scores}
            assert "score" not in node.node.get_content(MetadataMode.LLM) + node.node.get_content(MetadataMode.EMBED)
        assert await retriever.aretrieve(QUERY) == nodes
    query = VectorStoreQuery(query_str=QUERY, mode="hybrid", alpha=0.3, similarity_top_k=5, hybrid_top_k=2)
    expected = store.client.search(QUERY, 2, weights=(0.3, 0.7, 0))
    assert (
        store.query(query).similarities == [hit.score for hit in expected] == (await store.aquery(query)).similarities
    )
    multi_vector = store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=3), mode="multi_vector")
    assert multi_vector.similarities == [hit.score for hit in store.client.search(QUERY, 3, mode="multi_vector")]


async def test_a_query_without_text_is_searched_by_its_vector(store):
    pipeline(store, vector_store=store).run(documents=documents())
    query = VectorStoreQuery(query_embedding=store.embed_model.get_query_embedding(QUERY), similarity_top_k=3)
    found = store.query(query)
    assert found.ids == [hit.id for hit in store.client.search(QUERY, 3, mode="dense")]
    assert (await store.aquery(query)).ids == found.ids
    both = VectorStoreQuery(query_embedding=[1.0] * 7, query_str=QUERY, similarity_top_k=3)
    assert store.query(both).ids == found.ids, "a vector can come from another model, the text can't"
    few = VectorStoreQuery(query_str=QUERY, similarity_top_k=9, node_ids=found.ids[1:], doc_ids=["pandas", "rome"])
    assert set(store.query(few).ids) == set(found.ids[1:])
    for wrong in ({"query_embedding": [1.0]}, {}, {"query_embedding": query.query_embedding, "mode": "hybrid"}):
        with pytest.raises(InvalidInputError):
            store.query(VectorStoreQuery(**wrong))
    for mode in ("mmr", "text_search", "semantic_hybrid", "svm"):
        with pytest.raises(InvalidInputError) as raised:
            await store.aquery(VectorStoreQuery(query_str=QUERY, mode=mode))
        assert raised.value.argument == "mode"


async def test_nodes_are_got_and_deleted_by_id_filter_and_document(store):
    nodes = [TextNode(text=f"number {n}", id_=str(n), metadata={"n": n}) for n in range(6)]
    assert store.add(nodes[:3]) + await store.async_add(nodes[3:]) == [node.node_id for node in nodes]
    high = MetadataFilters(filters=[MetadataFilter(key="n", value=2, operator=">")])
    assert [node.node_id for node in store.get_nodes(["4", "unknown", "1"])] == ["4", "1"]
    assert {node.node_id for node in await store.aget_nodes(filters=high)} == {"3", "4", "5"}
    assert [node.node_id for node in store.get_nodes(["1", "5"], high)] == ["5"]
    store.delete_nodes(["1", "5"], high)
    await store.adelete_nodes(["0"])
    assert {node.node_id for node in store.get_nodes()} == {"1", "2", "3", "4"}
    with pytest.raises(InvalidInputError, match=r"clear\(\)"):
        store.delete_nodes()
    await store.aclear()
    assert store.get_nodes() == []


def test_a_vector_store_index_inserts_and_deletes(store):
    index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
    for document in documents():
        index.insert(document)
    assert {node.ref_doc_id for node in store.get_nodes()} == {"pandas", "rome"}
    index.delete_ref_doc("rome")
    assert {node.ref_doc_id for node in store.get_nodes()} == {"pandas"}
    index.delete_nodes([node.node_id for node in store.get_nodes()])
    assert store.get_nodes() == []


def test_results_that_are_added_again_leave_no_scores(store):
    store.add([TextNode(text=PANDAS, id_="1", metadata={"year": 2020})])
    found = store.query(VectorStoreQuery(query_str=QUERY, mode="hybrid")).nodes
    assert found[0].metadata.keys() == {"year", "relevance_score", *PARTS}
    store.add(found)
    store.add([TextNode.from_json(found[0].to_json())])
    assert store.get_nodes()[0].metadata == {"year": 2020}
    assert store.get_nodes()[0].excluded_embed_metadata_keys == []


VALUES = [None, "github", "GitHub", "", "git", 3, 4.5, ["git", "hub"], ["github"], [3, 4], [], "ß and İ"]
OPERATORS = [
    ("==", "git"), ("!=", "git"), ("in", ["git", "x"]), ("nin", ["git", "x"]), ("contains", "git"), ("contains", "HUB"),
    ("any", ["git", "x"]), ("any", []), ("all", ["git", "hub"]), ("all", ["git"]), ("text_match", "git"),
    ("text_match", ""),
    ("text_match_insensitive", "GIT"), ("text_match_insensitive", "i̇"), ("is_empty", None), ("contains", "ß"),
]  # fmt: skip


@pytest.fixture(scope="module")
def valued():
    with BGEM3VectorStore.open(model="pocket") as store:
        nodes = [TextNode(text=f"text {i}", id_=str(i), metadata={"x": x}) for i, x in enumerate(VALUES)]
        store.add([*nodes, TextNode(text="none", id_="none")])
        yield store


def expected_ids(operator, value, condition):
    """Ask SimpleVectorStore, which raises an error for a value of the wrong type: such a value does not match."""
    ids = set()
    for i, x in [*enumerate(VALUES), ("none", None)]:
        simple = SimpleVectorStore()
        simple.add([TextNode(text="a", id_=str(i), metadata={} if i == "none" else {"x": x}, embedding=[1.0])])
        only = MetadataFilters(filters=[MetadataFilter(key="x", value=value, operator=operator)], condition=condition)
        try:
            ids.update(simple.query(VectorStoreQuery(query_embedding=[1.0], filters=only)).ids)
        except TypeError:
            ids.update({str(i)} if condition == "not" else ())
    return ids


@pytest.mark.parametrize("condition", [FilterCondition.AND, FilterCondition.NOT])
@pytest.mark.parametrize(("operator", "value"), OPERATORS)
def test_filters_mean_what_they_mean_in_llama_indexes_own_store(valued, operator, value, condition):
    filters = MetadataFilters(filters=[MetadataFilter(key="x", value=value, operator=operator)], condition=condition)
    found = {node.node_id for node in valued.get_nodes(filters=filters)}
    expected = expected_ids(operator, value, condition)
    if operator in ("==", "!=", "in", "nin"):  # these look into lists, as in Qdrant
        lists = {str(i) for i, x in enumerate(VALUES) if isinstance(x, list)}
        found, expected = found - lists, expected - lists
    assert found == expected
    query = VectorStoreQuery(query_str="text", similarity_top_k=20, filters=filters)
    assert set(valued.query(query).ids) == {node.node_id for node in valued.get_nodes(filters=filters)}


def test_filters_can_be_nested(valued):
    def one(operator, value):
        return MetadataFilter(key="x", value=value, operator=operator)

    inner = MetadataFilters(filters=[one("text_match", "git"), one("!=", "git")])
    outer = MetadataFilters(filters=[inner, one("==", 3)], condition="or")
    negated = MetadataFilters(filters=[outer], condition="not")
    everything = {node.node_id for node in valued.get_nodes()}
    found = {node.node_id for node in valued.get_nodes(filters=outer)}
    assert found == {"1", "5", "9"}
    assert {node.node_id for node in valued.get_nodes(filters=negated)} == everything - found


@pytest.mark.parametrize("value", [3, ["git"]])
def test_a_text_match_needs_a_text(valued, value):
    filters = MetadataFilters(filters=[MetadataFilter(key="x", value=value, operator="text_match")])
    with pytest.raises(InvalidInputError):
        valued.get_nodes(filters=filters)


def test_on_a_qdrant_server_and_in_a_folder(tmp_path):
    for path in (QdrantClient(":memory:"), tmp_path / "store"):
        with BGEM3VectorStore.open(path, model="pocket") as store:
            store.add([TextNode(text=PANDAS, id_="1", metadata={"title": "github"})])
            filters = MetadataFilters(filters=[MetadataFilter(key="title", value="git", operator="contains")])
            query = VectorStoreQuery(query_str=QUERY, filters=filters, mode="hybrid", node_ids=["1"])
            assert store.query(query).ids == ["1"]
            assert store.model_name == store.client.embedder.name
    with BGEM3VectorStore.open(tmp_path / "store", create=False) as store:
        assert texts(store) == [PANDAS]
    with pytest.raises(IndexNotFoundError):
        BGEM3VectorStore.open(tmp_path / "none", create=False)
    with pytest.raises(InvalidInputError, match="M3Index"):
        BGEM3VectorStore(tmp_path)
    with pytest.raises(InvalidInputError, match="dtype"):
        BGEM3VectorStore.open(tmp_path / "store", use_fp16=True)


def test_threads_and_tasks_share_a_store(store):
    def add(name):
        store.add([TextNode(text=f"{name} {n}", id_=f"{name}{n}") for n in range(3)])

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def ask():
        queries = [VectorStoreQuery(query_str=f"{name} 1", mode="sparse") for name in "abc"]
        return await asyncio.gather(*map(store.aquery, queries))

    assert len(texts(store)) == 9
    assert [len(result.ids) for result in asyncio.run(ask())] == [1, 1, 1]


def test_an_index_is_shared_with_other_classes():
    with M3Index.open(":memory:", "pocket") as index:
        store = BGEM3VectorStore(index)
        store.add([TextNode(text=PANDAS, id_="1")])
        index.add(["Added elsewhere."], ids=["2"], metadatas=[{"year": 1}])
        assert {(node.node_id, node.text) for node in store.get_nodes()} == {("1", PANDAS), ("2", "Added elsewhere.")}
        retriever = BGEM3Retriever(_Index(index))
        assert len(retriever.retrieve(QUERY)) == 2
        assert retriever.model_name == store.model_name == "pocket"


class _Index:
    weights = (1, 1, 1)

    def __init__(self, m3_index):
        self.m3_index = m3_index


def test_an_open_store_is_not_pickled_without_its_index(store):
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(store)
