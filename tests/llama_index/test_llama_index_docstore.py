"""The docstore of a BGEM3Index: neighbours and parents of nodes, after loading too, and nodes of changed documents."""

import asyncio
import threading

import pytest
from llama_index.core import Document, StorageContext
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter, get_leaf_nodes
from llama_index.core.postprocessor import PrevNextNodePostprocessor
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from qdrant_client import QdrantClient

from bge_integrations.errors import StorageError
from bge_integrations.llama_index import BGEM3Index, BGEM3VectorStore, BGERerank
from bge_integrations.llama_index.file_kvstore import FileKVStore

TEXT = " ".join(f"Sentence {n} says that pandas eat bamboo in forest number {n}." for n in range(24))
QUERY = "pandas eat bamboo in the forest"
SPLITTER = SentenceSplitter(chunk_size=40, chunk_overlap=0)


@pytest.fixture(scope="module")
def hierarchy():
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[400, 80, 40], chunk_overlap=0)
    return parser.get_nodes_from_documents([Document(text=TEXT, id_="pandas")])


def merged(index, storage_context):
    retriever = AutoMergingRetriever(index.as_retriever(similarity_top_k=20), storage_context, simple_ratio_thresh=0.3)
    return {node.node_id for node in retriever.retrieve(QUERY)}


def chunks(text, name="pandas"):
    return IngestionPipeline(transformations=[SPLITTER]).run(documents=[Document(text=text, id_=name)])


def test_a_postprocessor_finds_the_neighbours(tmp_path):
    nodes = chunks(TEXT)
    with BGEM3Index(nodes, model="pocket", path=tmp_path / "index"):
        pass
    with BGEM3Index.load(tmp_path / "index") as index:
        one = [node for node in index.as_retriever(similarity_top_k=99).retrieve(QUERY) if node.text == nodes[3].text]
        for mode, expected in (("next", nodes[3:5]), ("previous", nodes[2:4]), ("both", nodes[2:5])):
            found = PrevNextNodePostprocessor(docstore=index.docstore, num_nodes=1, mode=mode).postprocess_nodes(one)
            assert [node.text for node in found] == [node.text for node in expected]


@pytest.mark.parametrize("given", ["added", "in a storage context"])
def test_nodes_are_merged_into_their_parents_after_loading(tmp_path, hierarchy, given):
    leaves = get_leaf_nodes(hierarchy)
    context = None
    if given == "in a storage context":
        context = StorageContext.from_defaults()
        context.docstore.add_documents(hierarchy)
    with BGEM3Index(leaves, model="pocket", path=tmp_path / "index", storage_context=context) as index:
        if given == "added":
            index.docstore.add_documents(hierarchy)
        expected = merged(index, index.storage_context)
        assert not expected <= {leaf.node_id for leaf in leaves}
        assert len(index.m3_index) == len(leaves), "parents are not searched"
        index.persist(tmp_path / "copy")
    for folder in ("index", "copy"):
        with BGEM3Index.load(tmp_path / folder) as index:
            assert merged(index, index.storage_context) == expected
            assert merged(index, StorageContext.from_defaults(docstore=index.docstore)) == expected


def test_without_a_folder_parents_are_in_memory_or_in_the_users_docstore(tmp_path, hierarchy):
    leaves = get_leaf_nodes(hierarchy)
    client = QdrantClient(":memory:")
    with BGEM3Index(leaves, model="pocket", path=client) as index:
        index.docstore.add_documents(hierarchy)
        expected = merged(index, index.storage_context)
        index.storage_context.persist(str(tmp_path / "context"))
    docstore = SimpleDocumentStore.from_persist_dir(str(tmp_path / "context"))
    assert docstore.docs.keys() == {node.node_id for node in hierarchy}
    with BGEM3Index.load(client) as index, pytest.raises(ValueError, match=r"add_documents"):
        merged(index, index.storage_context)
    with BGEM3Index.load(client, storage_context=StorageContext.from_defaults(docstore=docstore)) as index:
        assert merged(index, index.storage_context) == expected


async def test_the_docstore_is_one_view_of_both_kinds_of_nodes(tmp_path, hierarchy):
    leaves = get_leaf_nodes(hierarchy)
    parent = hierarchy[0]
    with BGEM3Index(leaves, model="pocket", path=tmp_path / "index") as index:
        docstore = index.docstore
        docstore.add_documents(hierarchy)
        everything = {node.node_id: node for node in hierarchy}
        assert docstore.docs.keys() == everything.keys()
        assert docstore.get_node(parent.node_id) == parent == await docstore.aget_node(parent.node_id)
        assert [node.text for node in docstore.get_nodes(list(everything))] == [node.text for node in hierarchy]
        assert docstore.get_nodes(["unknown", leaves[0].node_id], raise_error=False) == [
            docstore.get_node(leaves[0].node_id)
        ]
        assert docstore.document_exists(leaves[0].node_id)
        assert not await docstore.adocument_exists("unknown")
        assert set(docstore.get_ref_doc_info("pandas").node_ids) == everything.keys()
        assert (await docstore.aget_all_ref_doc_info()).keys() == {"pandas"}
        with pytest.raises(ValueError, match="unknown"):
            await docstore.aget_nodes(["unknown"])
        docstore.set_document_hashes({"pandas": "a"})
        assert await docstore.aget_document_hash("pandas") == "a"
        assert docstore.get_all_document_hashes()["a"] == "pandas"
        index.delete_ref_doc("pandas")
        assert docstore.document_exists(parent.node_id)
        await index.ainsert_nodes(leaves)
        await index.adelete_ref_doc("pandas", delete_from_docstore=True)
        assert docstore.docs == {}


@pytest.mark.parametrize("insert", ["insert_nodes", "ainsert_nodes"])
def test_inserting_the_nodes_of_a_changed_document_replaces_the_old_ones(insert):
    def put(nodes):
        done = getattr(index, insert)(nodes)
        if insert == "ainsert_nodes":
            asyncio.run(done)

    with BGEM3Index(model="pocket") as index:
        first, other = chunks(TEXT), chunks("Rome lies on the Tiber.", "rome")
        put(first[:2])
        put(first[2:])
        put(other)
        assert index.m3_index.count() == len(first) + 1, "several calls may insert parts of a document"
        changed = chunks(TEXT.replace("bamboo", "leaves"))
        put(changed[:3])
        assert {stored.id for stored in index.m3_index} == {node.node_id for node in [*changed[:3], *other]}
        put([TextNode(text="of no document", id_="alone")])
        put(changed[3:])
        assert index.m3_index.count() == len(changed) + 2
        again = chunks(TEXT.replace("bamboo", "leaves"))
        put(again)
        assert index.m3_index.count() == len(changed) + 2
        assert {node.node_id for node in again} <= {stored.id for stored in index.m3_index}


def test_equal_texts_in_one_document_are_several_nodes():
    twice = chunks("Pandas eat bamboo leaves every single day of the year. " * 20)
    assert len({node.text for node in twice}) < len(twice)
    with BGEM3Index(model="pocket") as index:
        for node in twice:
            index.insert_nodes([node])
        assert index.m3_index.count() == len(twice)
        parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[400, 80], chunk_overlap=0)
        family = parser.get_nodes_from_documents([Document(text="Short.", id_="short")])
        for node in family:
            index.insert_nodes([node])
        assert index.m3_index.count() == len(twice) + len(family)


def test_a_pipeline_can_keep_its_state_in_the_index(tmp_path):
    def run(text):
        store = BGEM3VectorStore(index.m3_index)
        steps = [SPLITTER, store.embed_model]
        pipeline = IngestionPipeline(transformations=steps, vector_store=store, docstore=index.docstore)
        return len(pipeline.run(documents=[Document(text=text, id_="pandas")]))

    with BGEM3Index(model="pocket", path=tmp_path / "index") as index:
        added = run(TEXT)
        assert index.m3_index.count() == added > 1
    with BGEM3Index.load(tmp_path / "index") as index:
        assert run(TEXT) == 0
        assert run("Pandas sleep.") == 1
        assert [stored.text for stored in index.m3_index] == ["Pandas sleep."]


def test_bad_nodes_replace_nothing():
    with BGEM3Index(chunks(TEXT), model="pocket") as index:
        before = {stored.id for stored in index.m3_index}
        wrong = chunks("Short.")
        wrong[0].metadata["x"] = object()
        with pytest.raises(ValueError, match=wrong[0].node_id):
            index.insert_nodes(wrong)
        assert {stored.id for stored in index.m3_index} == before


def test_scores_are_in_the_metadata_but_neither_read_nor_stored():
    with BGEM3Index(chunks(TEXT), model="pocket") as index:
        nodes = index.as_retriever(similarity_top_k=4).retrieve(QUERY)
        for node in nodes:
            parts = {f"{name}_score": score for name, score in node.scores.items()}
            assert {**node.metadata} == {"relevance_score": node.score, **parts}
            assert len(parts) == 3
            for mode in (MetadataMode.LLM, MetadataMode.EMBED):
                assert node.node.get_content(mode) == node.text
            assert node.node.hash == index.docstore.get_node(node.node_id).hash
        reranked = BGERerank(model="pocket", top_n=2, metadata_mode=MetadataMode.ALL).postprocess_nodes(
            nodes, query_str=QUERY
        )
        before = {node.node_id: node.score for node in nodes}
        assert [node.metadata["relevance_score"] for node in reranked] == [node.score for node in reranked]
        assert [node.metadata["retrieval_score"] for node in reranked] == [before[node.node_id] for node in reranked]
        plain = BGERerank(model="pocket", metadata_mode=MetadataMode.NONE).postprocess_nodes(nodes, query_str=QUERY)
        assert [node.score for node in plain] == [node.score for node in reranked]
        index.insert_nodes([node.node for node in reranked])
        assert all("score" not in str(stored.metadata) for stored in index.m3_index)


def test_fusion_sees_a_node_with_two_scores_as_one():
    with BGEM3Index(chunks(TEXT), model="pocket") as index:
        retrievers = [index.as_retriever(similarity_top_k=30, mode=mode) for mode in ("dense", "hybrid")]
        for mode in ("reciprocal_rerank", "simple"):
            fusion = QueryFusionRetriever(
                retrievers, llm=MockLLM(), num_queries=1, mode=mode, similarity_top_k=99, use_async=False
            )
            found = [node.node_id for node in fusion.retrieve(QUERY)]
            assert len(found) == len(set(found)) == index.m3_index.count()


def test_a_key_value_store_in_a_file(tmp_path):
    store = FileKVStore(tmp_path / "values.sqlite")
    assert store.get("a") is None
    assert store.get_all() == {}
    assert not store.delete("a")
    assert not store.path.exists(), "reading creates nothing"
    store.put_all([("a", {"x": "大熊猫"}), ("b", {"x": 2})], batch_size=7)
    store.put("a", {"x": 3}, collection="other")
    asyncio.run(store.aput("b", {"x": 4}))
    again = FileKVStore(store.path)
    assert again.get_all() == {"a": {"x": "大熊猫"}, "b": {"x": 4}} == asyncio.run(again.aget_all())
    assert again.get("a", "other") == {"x": 3}
    assert again.delete("a")
    assert not again.delete("a")
    assert store.get("a") is None
    store.path.chmod(0o444)
    assert store.get("b") == {"x": 4}
    threads = [threading.Thread(target=FileKVStore(tmp_path / "new.sqlite").put, args=(str(n), {})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(FileKVStore(tmp_path / "new.sqlite").get_all()) == 8
    (tmp_path / "damaged.sqlite").write_bytes(b"no database" * 100)
    for call in (lambda store: store.get("a"), lambda store: store.put("a", {})):
        with pytest.raises(StorageError, match="damaged"):
            call(FileKVStore(tmp_path / "damaged.sqlite"))
