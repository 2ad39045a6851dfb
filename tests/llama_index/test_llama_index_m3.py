"""BGEM3Index and BGEM3Retriever: documents in and out, on disk and back, filters, engines, async."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.indices.composability import ComposableGraph
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter, TextSplitter
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    QueryBundle,
    TextNode,
    TransformComponent,
)
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from bge_integrations import load_embedder
from bge_integrations.core import inputs
from bge_integrations.core.embedder import Embedder
from bge_integrations.errors import (
    ClosedError,
    IndexFormatError,
    IndexNotFoundError,
    InvalidInputError,
)
from bge_integrations.index import M3Index
from bge_integrations.llama_index import BGEM3Index, BGEM3Retriever, BGERerank
from bge_integrations.llama_index.scored_nodes import without_scores
from bge_integrations.scoring import hybrid_scores

PANDAS = "Giant pandas live in the bamboo forests of China.\nA panda eats up to forty kilograms of bamboo a day."
ROME = "Rome lies on the river Tiber.\nThe Colosseum is an old amphitheatre in Rome."
RANKING = "BM25 ranks documents by the words that they share with the query."
QUERY = "What does a panda eat?"


class Lines(TextSplitter):
    """Make a node of each line, with a new id each time, as LlamaIndex's parsers do."""

    def split_text(self, text):
        return text.split("\n")


def documents(**texts):
    texts = {"pandas": PANDAS, "rome": ROME, "ranking": RANKING, **texts}
    years = {"pandas": 2020, "rome": 1999, "ranking": 1994}
    return [
        Document(text=text, id_=name, metadata={"year": years.get(name, 0), "tags": [name, "all"]})
        for name, text in texts.items()
    ]


def make(given=None, **settings):
    given = documents() if given is None else given
    return BGEM3Index.from_documents(given, **{"model": "pocket", "transformations": [Lines()], **settings})


def found(index, query=QUERY, **settings):
    return [scored.text for scored in index.as_retriever(**settings).retrieve(query)]


def only(*filters, condition=FilterCondition.AND):
    return MetadataFilters(filters=list(filters), condition=condition)


@pytest.fixture(autouse=True)
def no_other_models(monkeypatch):
    """Fail if a default embedding model or LLM is requested, instead of asking for OpenAI's key."""
    monkeypatch.setattr("llama_index.core.embeddings.utils.resolve_embed_model", pytest.fail)
    monkeypatch.setattr("llama_index.core.settings.resolve_embed_model", pytest.fail)
    monkeypatch.setattr("llama_index.core.settings.resolve_llm", pytest.fail)


@pytest.fixture
def llm(monkeypatch):
    llm = MockLLM()
    monkeypatch.setattr(Settings, "_llm", llm)  # some LlamaIndex engines request it even when they are given an LLM
    return llm


@pytest.fixture
def encoded(monkeypatch):
    """A list that collects the texts that the model encodes."""
    texts = []
    tokenize = inputs.tokenize_texts
    monkeypatch.setattr(
        inputs, "tokenize_texts", lambda t, given, **rest: texts.extend(given) or tokenize(t, given, **rest)
    )
    monkeypatch.setattr(Embedder, "_check_room", lambda _: None)  # tokenises a letter
    return texts


@pytest.fixture
def index():
    with make() as index:
        yield index


def test_scores_are_the_cores(index):
    retriever = index.as_retriever(similarity_top_k=10)
    nodes = retriever.retrieve(QUERY)
    assert [node.text for node in nodes][:1] == [PANDAS.split("\n")[1]]
    assert [node.score for node in nodes] == sorted((node.score for node in nodes), reverse=True)
    assert len(nodes) == 5
    texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
    with load_embedder("pocket") as embedder:
        query = embedder.encode([QUERY], kind="query", sparse=True, multi_vector=True)
        expected = hybrid_scores(query, embedder.encode(texts, kind="passage", sparse=True, multi_vector=True))
    assert [node.score for node in nodes] == pytest.approx(expected.hybrid[0].tolist(), abs=2e-3)  # float16 vectors
    for name in ("dense", "sparse", "multi_vector"):
        scores = getattr(expected, name)[0].tolist()
        assert [node.scores[name] for node in nodes] == pytest.approx(scores, abs=2e-3)


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi_vector", "hybrid"])
@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
async def test_modes(index, mode, fusion):
    retriever = index.as_retriever(mode=mode, fusion=fusion, similarity_top_k=3)
    nodes = retriever.retrieve(QUERY)
    assert nodes[0].text == PANDAS.split("\n")[1]
    again = await retriever.aretrieve(QUERY)
    assert [(node.node_id, node.score) for node in again] == [(node.node_id, node.score) for node in nodes]


def test_weights_are_the_index_or_the_retrievers():
    with make(weights_for_different_modes=[0, 1, 0]) as index:
        sparse = index.as_retriever(similarity_top_k=5).retrieve(QUERY)
        assert [node.score for node in sparse] == pytest.approx([node.scores["sparse"] for node in sparse])
        dense = index.as_retriever(similarity_top_k=5, weights=(1, 0, 0)).retrieve(QUERY)
        assert [node.score for node in dense] == pytest.approx([node.scores["dense"] for node in dense])


def test_a_node_comes_back_as_it_was():
    node = TextNode(
        text="Pandas",
        id_="a",
        metadata={"title": "Bears", "nested": {"page": [1, 2]}, "doc_id": "mine"},
        excluded_embed_metadata_keys=["nested", "doc_id"],
        excluded_llm_metadata_keys=["title"],
        relationships={NodeRelationship.SOURCE: Document(text="whole", id_="whole").as_related_node_info()},
    )
    image = ImageNode(text="A panda", id_="b", image_url="http://example.org/panda.png")
    with BGEM3Index([node, image], model="pocket") as index:
        back = {scored.node_id: scored.node for scored in index.as_retriever(similarity_top_k=2).retrieve("Pandas")}
        assert without_scores(back["a"]).to_dict() == node.to_dict() == index.docstore.get_node("a").to_dict()
        assert isinstance(back["b"], ImageNode)
        assert back["b"].image_url == image.image_url
        assert index.m3_index.get(["a"])[0].text == "title: Bears\n\nPandas"


def test_an_unsplit_document_is_its_own_node():
    class Whole(TransformComponent):
        def __call__(self, nodes, **kwargs):
            return nodes

    with make(transformations=[Whole()]) as index:
        assert index.ref_doc_info["rome"].node_ids == ["rome"]
        assert index.refresh_ref_docs(documents(rome="Rome.")) == [False, True, False]
        index.delete_ref_doc("rome")
        assert set(index.ref_doc_info) == {"pandas", "ranking"}


def test_nodes_without_a_document_have_no_ref_doc():
    with BGEM3Index([TextNode(text="Pandas", id_="a")], model="pocket") as index:
        assert index.ref_doc_info == {}
        assert found(index) == ["Pandas"]


def test_inserting_and_deleting(index):
    index.insert(Document(text="Tea comes from China.", id_="tea"))
    index.insert_nodes([TextNode(text="Coffee comes from Ethiopia.", id_="coffee")])
    assert len(index.m3_index) == 7
    assert found(index, "Where does tea come from?")[0] == "Tea comes from China."
    index.delete_nodes(["coffee"])
    index.delete_ref_doc("tea", delete_from_docstore=True)
    assert len(index.m3_index) == 5
    assert "Tea comes from China." not in found(index, "tea", similarity_top_k=10)


def test_deleting_a_missing_document_is_logged(index, caplog):
    index.delete_ref_doc("nowhere")
    assert "nowhere" in caplog.text
    assert len(index.m3_index) == 5


def test_ref_doc_info_lists_the_documents(index):
    known = index.ref_doc_info
    assert {name: len(info.node_ids) for name, info in known.items()} == {"pandas": 2, "rome": 2, "ranking": 1}
    assert known["rome"].metadata == {"year": 1999, "tags": ["rome", "all"]}
    assert {entry.id for entry in index.m3_index.scan({"ref_doc_id": "rome"})} == set(known["rome"].node_ids)


def test_the_same_node_is_not_encoded_again(encoded):
    nodes = Lines().get_nodes_from_documents(documents())
    with BGEM3Index(nodes, model="pocket") as index:
        encoded.clear()
        index.insert_nodes(nodes)
        assert len(index.m3_index) == 5
        assert encoded == []


def test_the_same_document_again_changes_nothing(index, encoded):
    before = {entry.id: entry.text for entry in index.m3_index}
    index.insert(documents()[0])
    index.update_ref_doc(documents()[1])
    assert {entry.id: entry.text for entry in index.m3_index} == before
    assert encoded == []


def test_from_documents_on_a_stored_index_changes_nothing(tmp_path, encoded):
    with make(path=tmp_path / "kept") as index:
        before = {entry.id for entry in index.m3_index}
    encoded.clear()
    with make(path=tmp_path / "kept") as index:
        assert {entry.id for entry in index.m3_index} == before
        assert encoded == []


def test_refreshing(index, encoded):
    kept = set(index.ref_doc_info["rome"].node_ids)
    rome = "Rome was not built in a day.\n" + ROME.split("\n")[0]
    new = [*documents(rome=rome), Document(text="Tea comes from China.", id_="tea")]
    assert index.refresh_ref_docs(new) == [False, True, False, True]
    assert sorted(text.split("\n")[-1] for text in encoded) == ["Rome was not built in a day.", "Tea comes from China."]
    assert set(found(index, similarity_top_k=10)) == {
        *PANDAS.split("\n"),
        *rome.split("\n"),
        RANKING,
        "Tea comes from China.",
    }
    assert len(kept & set(index.ref_doc_info["rome"].node_ids)) == 1
    encoded.clear()
    assert index.refresh_ref_docs(new) == [False] * 4
    assert encoded == []


def test_docstore_arguments_are_accepted_as_by_other_indexes(index):
    rome = documents(rome="Rome was not built in a day.")
    assert index.refresh_ref_docs(rome, update_kwargs={"delete_kwargs": {"delete_from_docstore": True}})[1]
    index.update_ref_doc(documents()[1], delete_kwargs={"delete_from_docstore": True})
    assert set(index.ref_doc_info) == {"pandas", "rome", "ranking"}
    assert "Rome was not built in a day." not in found(index, similarity_top_k=10)


def test_a_document_that_nothing_splits_keeps_its_id(tmp_path):
    class Same(TransformComponent):
        def __call__(self, nodes, **kwargs):
            return nodes

    text = "The giant panda eats bamboo."
    BGEM3Index.from_documents([Document(text=text, id_="panda")], path=tmp_path / "i", model="pocket").close()
    with BGEM3Index.load(tmp_path / "i", transformations=[Same()]) as index:
        document = Document(text=text, id_="panda")
        index.insert(document)
        assert document.id_ == "panda"
        assert list(index.ref_doc_info) == ["panda"]
        assert len(index.m3_index) == 1


def test_refreshing_notices_changed_metadata(index, encoded):
    changed = documents()
    changed[0].metadata["year"] = 2021
    changed[0].excluded_embed_metadata_keys = ["year"]
    assert index.refresh_ref_docs(changed) == [True, False, False]
    texts = found(index, similarity_top_k=10, filters=only(MetadataFilter(key="year", value=2021)))
    assert sorted(texts) == sorted(PANDAS.split("\n"))


def test_neighbours_refer_to_the_stored_ids(index):
    index.insert(documents(rome="Rome was not built in a day.\n" + ROME)[1])
    entries = {entry.id: entry for entry in index.m3_index}
    retriever = index.as_retriever(similarity_top_k=3, doc_ids=["rome"])
    by_text = {scored.text: scored.node for scored in retriever.retrieve("Rome")}
    first, second, third = (by_text[line] for line in ("Rome was not built in a day.", *ROME.split("\n")))
    assert (first.next_node.node_id, second.next_node.node_id) == (second.node_id, third.node_id)
    assert (second.prev_node.node_id, third.prev_node.node_id) == (first.node_id, second.node_id)
    assert {first.node_id, second.node_id, third.node_id} <= entries.keys()


def test_ids_that_a_parser_repeats_are_left_alone():
    numbered = Lines(id_func=lambda i, document: f"{document.node_id}-{i}")
    with make(transformations=[numbered]) as index:
        assert sorted(index.ref_doc_info["rome"].node_ids) == ["rome-0", "rome-1"]
        new = documents(rome="Rome was not built in a day.\n" + ROME)
        assert index.refresh_ref_docs(new) == [False, True, False]
        stored = {entry.id: entry.text.split("\n")[-1] for entry in index.m3_index.scan({"ref_doc_id": "rome"})}
        assert stored == {
            "rome-0": "Rome was not built in a day.",
            "rome-1": ROME.split("\n")[0],
            "rome-2": ROME.split("\n")[1],
        }
        assert index.refresh_ref_docs(documents(rome="Rome.")) == [False, True, False]
        assert index.ref_doc_info["rome"].node_ids == ["rome-0"]


def test_equal_chunks_of_a_document_all_stay():
    with make([Document(text="hi\nhi\nho", id_="a")]) as index:
        assert len(index.m3_index) == 3
        index.insert(Document(text="hi\nhi\nhi", id_="a"))
        assert sorted(entry.text for entry in index.m3_index) == ["hi", "hi", "hi"]


def test_a_document_that_lost_a_chunk_is_completed(index, encoded):
    index.delete_nodes(index.ref_doc_info["rome"].node_ids[:1])  # the state after a kill in the middle of an insert
    assert index.refresh_ref_docs(documents()) == [False, True, False]
    assert len(encoded) == 1
    assert len(index.m3_index) == 5


def test_documents_that_share_an_id_are_one():
    pages = [Document(text="Page one.", id_="book"), Document(text="Page two.", id_="book")]
    with make(pages) as index:
        assert len(index.ref_doc_info["book"].node_ids) == 2
        assert index.refresh_ref_docs(pages) == [False, False]
        assert index.refresh_ref_docs([pages[0], Document(text="Page 2.", id_="book")]) == [True, True]
        assert len(index.m3_index) == 2


def test_transformations_that_change_documents_do_not_make_them_new(tmp_path):
    class Titled(TransformComponent):
        def __call__(self, nodes, **kwargs):
            for node in nodes:
                node.metadata["title"] = node.node_id
            return nodes

    with make(path=tmp_path / "kept", transformations=[Titled(), Lines()]) as index:
        assert index.refresh_ref_docs(documents()) == [False] * 3


def test_stored_on_disk(tmp_path, encoded):
    with make(path=tmp_path / "kept", transformations=[SentenceSplitter()]) as index:
        index.persist()
        before = [(node.node.to_dict(), node.score) for node in index.as_retriever().retrieve(QUERY)]
    encoded.clear()
    for load in (BGEM3Index.load, BGEM3Index.load_from_disk):
        with load(tmp_path / "kept", model="pocket") as index:
            assert [(node.node.to_dict(), node.score) for node in index.as_retriever().retrieve(QUERY)] == before
            assert index.refresh_ref_docs(documents()) == [False] * 3
    assert set(encoded) == {QUERY}
    with BGEM3Index.load(tmp_path / "kept") as index:  # with the model it was made with
        assert len(index.m3_index) == 3


def test_persisting_copies_without_encoding(tmp_path, encoded):
    with make() as index:
        with pytest.raises(InvalidInputError, match="persist"):
            index.persist()
        before = [(node.node.to_dict(), node.score) for node in index.as_retriever().retrieve(QUERY)]
        encoded.clear()
        index.persist(tmp_path / "kept")
        with pytest.raises(IndexFormatError, match="kept"):
            index.persist(tmp_path / "kept")
    with BGEM3Index.load(tmp_path / "kept") as index:
        index.persist(tmp_path / "kept")
        index.persist(tmp_path / "copy" / ".." / "kept")
        index.persist(tmp_path / "copy")
    with BGEM3Index.load(tmp_path / "copy") as index:
        assert not encoded
        assert [(node.node.to_dict(), node.score) for node in index.as_retriever().retrieve(QUERY)] == before


def test_only_a_stored_index_can_be_loaded(tmp_path):
    (tmp_path / "nothing").mkdir()
    for place in ("nowhere", "nothing"):
        with pytest.raises(IndexNotFoundError, match=place):
            BGEM3Index.load(tmp_path / place, model="pocket")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["nothing"]
    with pytest.raises(IndexNotFoundError, match="documents"):
        BGEM3Index.load(QdrantClient(":memory:"), model="pocket")
    (tmp_path / "docstore.json").write_text("{}")
    with pytest.raises(IndexFormatError, match=r"docstore\.json"):
        BGEM3Index.load(tmp_path, model="pocket")


def test_a_failure_releases_the_folder(tmp_path):
    with make(path=tmp_path / "kept") as index:
        with BGEM3Index(path=tmp_path / "kept", model="pocket") as shared:
            assert len(shared.m3_index) == 5
        assert len(index.m3_index) == 5
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="node 'a'"):
            BGEM3Index([TextNode(text="Pandas", id_="a", metadata={"size": object()})], path=tmp_path / "kept")
        with pytest.raises(InvalidInputError, match=r"'a'.*surrogate"):
            make([Document(text="Pandas \ud800", id_="a")], path=tmp_path / "kept")
    with pytest.raises(ClosedError):
        index.as_retriever().retrieve(QUERY)


def test_an_open_index_can_be_wrapped():
    with M3Index.open(":memory:", "pocket") as m3_index:
        m3_index.add(["Giant pandas eat bamboo."], ids=["a"], metadatas=[{"source": "elsewhere"}])
        index = BGEM3Index.from_index(m3_index, transformations=[Lines()])
        index.insert(documents()[1])
        node = index.as_retriever(similarity_top_k=1).retrieve(QUERY)[0]
        assert (node.node_id, node.text, node.metadata) == ("a", "Giant pandas eat bamboo.", {"source": "elsewhere"})
        assert set(index.ref_doc_info) == {"rome"}
        with pytest.raises(InvalidInputError, match=r"M3Index\.open"):
            BGEM3Index.from_index(m3_index, device="cpu")


def test_on_a_qdrant_server():
    client = QdrantClient(":memory:")
    with make(path=client, collection="one") as index, make([], path=client, collection="two") as other:
        assert found(index)[0] == PANDAS.split("\n")[1]
        assert len(other.m3_index) == 0
    with BGEM3Index.load(client, collection="one") as index:
        assert index.refresh_ref_docs(documents(rome="Rome.")) == [False, True, False]
        index.delete_ref_doc("pandas")
        assert set(index.ref_doc_info) == {"rome", "ranking"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (only(), {"pandas", "rome", "ranking"}),
        (only(MetadataFilter(key="year", value=1999)), {"rome"}),
        (only(MetadataFilter(key="year", value=1999, operator="!=")), {"pandas", "ranking"}),
        (only(MetadataFilter(key="year", value=1999, operator=">")), {"pandas"}),
        (only(MetadataFilter(key="year", value=1999, operator=">=")), {"pandas", "rome"}),
        (only(MetadataFilter(key="year", value=1999, operator="<")), {"ranking"}),
        (only(MetadataFilter(key="year", value=1999, operator="<=")), {"rome", "ranking"}),
        (only(MetadataFilter(key="year", value=[1999, 2020], operator="in")), {"pandas", "rome"}),
        (only(MetadataFilter(key="year", value=[1999, 2020], operator="nin")), {"ranking"}),
        (only(MetadataFilter(key="tags", value="rome", operator="contains")), {"rome"}),
        (only(MetadataFilter(key="tags", value="rom", operator="contains")), set()),
        (only(MetadataFilter(key="ref_doc_id", value="RO", operator="text_match_insensitive")), {"rome"}),
        (only(MetadataFilter(key="tags", value=["rome", "pandas"], operator="any")), {"pandas", "rome"}),
        (only(MetadataFilter(key="tags", value=["rome", "all"], operator="all")), {"rome"}),
        (only(MetadataFilter(key="tags", value=[], operator="all")), {"pandas", "rome", "ranking"}),
        (only(MetadataFilter(key="author", value=None, operator="is_empty")), {"pandas", "rome", "ranking"}),
        (only(MetadataFilter(key="year", value=None, operator="is_empty")), set()),
        (only(MetadataFilter(key="ref_doc_id", value="rome")), {"rome"}),
        (only(MetadataFilter(key="year", value=1999), MetadataFilter(key="tags", value="pandas")), set()),
        (
            only(
                MetadataFilter(key="year", value=1999),
                only(MetadataFilter(key="tags", value="pandas"), MetadataFilter(key="year", value=2020)),
                condition=FilterCondition.OR,
            ),
            {"pandas", "rome"},
        ),
        (
            only(
                MetadataFilter(key="year", value=1999),
                MetadataFilter(key="year", value=2020),
                condition=FilterCondition.NOT,
            ),
            {"ranking"},
        ),
    ],
)
def test_filters(filtered, filters, expected):
    nodes = filtered.as_retriever(similarity_top_k=10, filters=filters).retrieve(QUERY)
    assert {node.node.ref_doc_id for node in nodes} == expected


@pytest.fixture(scope="module")
def filtered():
    with make() as index:
        yield index


@pytest.mark.parametrize("operator", ["text_match", "text_match_insensitive"])
def test_filters_with_a_wrong_value_are_refused(filtered, operator):
    with pytest.raises(InvalidInputError, match="year"):
        filtered.as_retriever(filters=only(MetadataFilter(key="year", value=1999, operator=operator)))
    with pytest.raises(InvalidInputError, match=r"'tags'.*'all'"):
        filtered.as_retriever(filters=only(MetadataFilter(key="tags", value="a", operator="all")))


def test_only_nodes_of_some_documents(filtered):
    def ids(**settings):
        nodes = filtered.as_retriever(similarity_top_k=10, **settings).retrieve(QUERY)
        return {node.node.ref_doc_id for node in nodes}

    assert ids(doc_ids=["rome", "ranking"]) == {"rome", "ranking"}
    assert ids(doc_ids=["rome"], filters=only(MetadataFilter(key="year", value=2020))) == set()
    assert ids(doc_ids=[]) == set()


async def test_queries(filtered):
    retriever = BGEM3Retriever(filtered, similarity_top_k=1)
    expected = retriever.retrieve(QUERY)[0].score
    # LlamaIndex's other retrievers leave a vector of another model in the query
    assert retriever.retrieve(QueryBundle(QUERY, embedding=[1.0, 0.0])) == retriever.retrieve(QUERY)
    transformed = QueryBundle("ignored", custom_embedding_strs=["What does", "a panda eat?"])
    assert (await retriever.aretrieve(transformed))[0].score == pytest.approx(expected, abs=0.1)
    with pytest.raises(InvalidInputError, match="search_by_vector"):
        retriever.retrieve(QueryBundle("", embedding=[1.0, 0.0]))


def test_bad_arguments_say_what_to_do(filtered):
    with pytest.raises(InvalidInputError, match="similarity_top_k=0"):
        filtered.as_retriever(similarity_top_k=0)
    with pytest.raises(InvalidInputError, match=r"top_k; .*similarity_top_k"):
        filtered.as_retriever(top_k=3)
    with pytest.raises(InvalidInputError, match="mode='fuzzy'"):
        filtered.as_retriever(mode="fuzzy")
    with pytest.raises(InvalidInputError, match="candidates=0"):
        filtered.as_retriever(candidates=0)
    with pytest.raises(InvalidInputError, match="weights="):
        filtered.as_retriever(weights=(1, 2))
    with pytest.raises(InvalidInputError, match="weights="):
        make(weights=(0, 0, 0))
    with pytest.raises(InvalidInputError, match="long ago"):
        filtered.as_retriever(filters=only(MetadataFilter(key="year", value="long ago", operator="<")))
    with pytest.raises(InvalidInputError, match=r"ids\[1\].*'a'"):
        filtered.insert_nodes([TextNode(text="one", id_="a"), TextNode(text="two", id_="a")])
    with pytest.raises(InvalidInputError, match="batch_size"):
        make(batch_size=32)
    with pytest.raises(InvalidInputError, match="dtype='float16'"):
        make(use_fp16=True)
    with pytest.raises(InvalidInputError, match="model is given"):
        make(model_name="pocket")
    with pytest.raises(InvalidInputError, match="colour"):
        make(colour="red")
    with pytest.raises(InvalidInputError, match="max_length"):
        make(max_lenght=64)
    with pytest.raises(TypeError, match="colour"):
        filtered.insert(documents()[0], colour="red")


def test_a_query_engine_with_a_reranker(filtered, llm):
    engine = filtered.as_query_engine(
        llm=llm,
        response_mode="no_text",
        similarity_top_k=4,
        filters=only(MetadataFilter(key="tags", value="all")),
        node_postprocessors=[BGERerank(model="pocket", top_n=2, keep_retrieval_score=True)],
    )
    sources = engine.query(QUERY).source_nodes
    retrieved = {node.node_id: node.score for node in filtered.as_retriever(similarity_top_k=4).retrieve(QUERY)}
    assert len(sources) == 2
    assert sources[0].text == PANDAS.split("\n")[1]
    assert [node.metadata["retrieval_score"] for node in sources] == [retrieved[node.node_id] for node in sources]


def test_chat_engines(filtered):
    for mode in ("best", "context", "condense_question"):
        engine = filtered.as_chat_engine(chat_mode=mode, llm=MockLLM(), similarity_top_k=1, verbose=False)
        assert engine.chat(QUERY).source_nodes[0].text == PANDAS.split("\n")[1]


def test_scores_do_not_tell_nodes_apart_in_fusion(filtered):
    retrievers = [filtered.as_retriever(mode=mode, similarity_top_k=5) for mode in ("dense", "sparse")]
    fused = QueryFusionRetriever(
        retrievers, llm=MockLLM(), num_queries=1, similarity_top_k=10, mode="reciprocal_rerank", use_async=False
    )
    assert len(fused.retrieve(QUERY)) == 5


def test_index_nodes_lead_to_their_objects():
    with make() as below:
        leads = IndexNode(text="All about animals", index_id="animals", obj=below.as_retriever(similarity_top_k=1))
        with BGEM3Index(objects=[leads], model="pocket") as index:
            assert found(index) == [PANDAS.split("\n")[1]]
            index.insert_nodes([IndexNode(text="Panda", index_id="more", obj=below.as_retriever(similarity_top_k=3))])
            assert len(found(index)) == 3


def test_in_a_graph_of_indices(index, llm):
    graph = ComposableGraph.from_indices(SummaryIndex, [index], index_summaries=["animals"])
    engine = graph.as_query_engine(llm=llm, response_mode="no_text")
    assert engine.query(QUERY).source_nodes


def test_callbacks():
    debug = LlamaDebugHandler(print_trace_on_end=False)
    with make(callback_manager=CallbackManager([debug])) as index:
        index.as_retriever().retrieve(QUERY)
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 1


async def test_transformations_do_not_block_the_loop():
    threads = []

    class Sync(TransformComponent):
        def __call__(self, nodes, **kwargs):
            threads.append(threading.current_thread())
            return nodes

    class Async(Sync):
        async def acall(self, nodes, **kwargs):
            return self(nodes)

    class SyncLines(Lines):
        def split_text(self, text):
            threads.append(threading.current_thread())
            return super().split_text(text)

    with make([], transformations=[Sync(), Async(), SyncLines()]) as index:
        threads.clear()
        await index.ainsert(documents()[0])
    assert [thread is threading.main_thread() for thread in threads] == [False, True, False]


async def test_async(encoded):
    with make([], model="pocket") as index:
        await index.ainsert(documents()[0])
        await index.ainsert_nodes([TextNode(text="Coffee comes from Ethiopia.", id_="coffee")])
        assert await index.arefresh_ref_docs(documents()) == [False, True, True]
        changed = documents(rome=ROME.split("\n")[0])
        encoded.clear()
        await index.aupdate_ref_doc(changed[1])
        assert encoded == []
        assert len(index.ref_doc_info["rome"].node_ids) == 1
        await index.adelete_nodes(["coffee"])
        await index.adelete_ref_doc("ranking")
        assert set(index.ref_doc_info) == {"pandas", "rome"}
        assert (await index.as_retriever().aretrieve(QUERY))[0].text == PANDAS.split("\n")[1]


async def test_async_calls_do_not_block_the_event_loop():
    with make([]) as index:
        nodes = [TextNode(text=f"Text number {i} about pandas. " * 20, id_=str(i)) for i in range(200)]
        late = 0.0

        async def watch():
            nonlocal late
            while True:
                due = time.perf_counter() + 0.01
                await asyncio.sleep(0.01)
                late = max(late, time.perf_counter() - due)

        watching = asyncio.create_task(watch())
        start = time.perf_counter()
        await index.ainsert_nodes(nodes)
        await index.arefresh_ref_docs([Document(text="hi\n" * 100, id_=f"document {i}") for i in range(50)])
        retriever = index.as_retriever(similarity_top_k=10)
        await asyncio.gather(*[retriever.aretrieve(f"pandas {i}") for i in range(20)])
        took = time.perf_counter() - start
        watching.cancel()
        assert late < max(0.1, took / 4)


def test_importing_needs_no_engine():
    code = """
import sys
from bge_integrations.llama_index import BGEM3Index, BGEM3Retriever
assert not {"qdrant_edge", "qdrant_client"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_global_settings_are_unchanged():
    assert Settings._embed_model is None


async def test_concurrent_updates_of_one_document_leave_one_version(encoded):
    with make([], transformations=[Lines()]) as index:
        versions = [Document(text=f"x {n}\ny {n}", id_="one") for n in range(8)]
        await asyncio.gather(*map(index.aupdate_ref_doc, versions))
        threads = [threading.Thread(target=index.update_ref_doc, args=(version,)) for version in versions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts = {entry.text.splitlines()[-1] for entry in index.m3_index}
        assert len(index.m3_index) == 2
        assert len({text.split()[-1] for text in texts}) == 1


def test_foreign_entries_are_left_alone(encoded):
    with M3Index.open(":memory:", "pocket") as m3_index:
        m3_index.add(["not a node", "not one either"], ["a", "b"], [{"ref_doc_id": ["n"]}, {"ref_doc_id": "n"}])
        index = BGEM3Index.from_index(m3_index)
        index.insert(Document(text="New.", id_="n"))
        assert len(m3_index) == 3
        assert list(index.ref_doc_info) == ["n"]
        assert index.as_retriever(filters={"file.name": "x"}).retrieve("new") == []


def test_keys_are_flat(encoded):
    with make([Document(text="Pandas.", id_="p", metadata={"file.name": "x", "a[0]": 1})]) as index:
        for key, value in (("file.name", "x"), ("a[0]", 1)):
            filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value)])
            assert len(index.as_retriever(filters=filters).retrieve("pandas")) == 1
