"""`bge serve` as a model: what the local model returns, and every adapter takes its URL."""

import asyncio
import copy
import dataclasses
import inspect
import json
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import assert_close
from langchain_core.documents import Document
from servers import app_server

from bge_integrations import Embedder, Reranker, load_embedder, load_reranker
from bge_integrations.adapter_kit import load_dense, load_sparse
from bge_integrations.chroma import BGEEmbeddingFunction
from bge_integrations.cli import main
from bge_integrations.errors import (
    InvalidInputError,
    TextTooLongError,
    TruncationWarning,
    WrongKindError,
    WrongModelError,
)
from bge_integrations.evaluation import Dataset, evaluate
from bge_integrations.index import M3Index
from bge_integrations.langchain import BGEEmbeddings, BGEReranker
from bge_integrations.llama_index import BGEEmbedding, BGERerank
from bge_integrations.mteb import BGEEncoder
from bge_integrations.pipelines import langchain as langchain_pipelines

TEXTS = [f"panda number {i} eats bamboo" for i in range(20)] + ["", "panda number 3 eats bamboo", "naïve café 竹子"]
PAIRS = [("What do pandas eat?", text) for text in TEXTS]
ALL = {"dense": True, "sparse": True, "multi_vector": True}
KEY = "s3cret-key"


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    with app_server(models=["pocket"], rerankers=["pocket"], max_client_batch_size=8) as served:
        yield served.url


@pytest.fixture(scope="module")
def remote(own_server):
    with load_embedder(own_server) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def remote_reranker(own_server):
    with load_reranker(own_server) as reranker:
        yield reranker


def assert_same(found, expected):
    assert_close(found.dense, expected.dense)
    assert_close(found.sparse.values, expected.sparse.values)
    for name in ("indices", "offsets", "size"):
        assert np.array_equal(getattr(found.sparse, name), getattr(expected.sparse, name))
    assert_close(found.multi_vector.vectors, expected.multi_vector.vectors)
    assert np.array_equal(found.multi_vector.offsets, expected.multi_vector.offsets)


@pytest.mark.parametrize("kind", ["query", "passage", None])
def test_all_outputs_are_the_local_models(remote, pocket, kind):
    expected = pocket.encode(TEXTS, kind=kind, **ALL)
    assert_same(remote.encode(TEXTS, kind=kind, **ALL), expected)
    assert_same(asyncio.run(remote.aencode(TEXTS, kind=kind, **ALL)), expected)
    assert_close(asyncio.run(remote.aencode_dense(TEXTS, kind=kind)), expected.dense)
    only = remote.encode(TEXTS[:2], kind=kind, dense=False, sparse=True)
    assert (only.dense, only.multi_vector) == (None, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"query_instruction": "Find: ", "passage_instruction": "Text: "},
        {"query_instruction": ""},
        {"truncate_dim": 16},
        {"max_length": 8},
    ],
)
def test_settings_have_the_local_effect(own_server, settings):
    with load_embedder("pocket", **settings) as local, load_embedder(own_server, **settings) as remote:
        for kind in ("query", "passage", None):
            arguments = {"kind": kind, "on_truncate": "ignore", **ALL}
            assert_same(remote.encode(TEXTS, **arguments), local.encode(TEXTS, **arguments))
        for kind in ("query", "passage"):
            assert remote.vector_settings(kind) == local.vector_settings(kind)
        assert remote.multi_vector_dimension == local.multi_vector_dimension


def test_vectors_are_not_normalized_if_told_so(remote, pocket):
    assert_close(remote.encode_dense(TEXTS, normalize=False), pocket.encode_dense(TEXTS, normalize=False))


def test_it_says_of_itself_what_the_local_model_says(remote, pocket, remote_reranker, pocket_reranker):
    for name in ("name", "dimension", "multi_vector_dimension", "vocabulary_size", "max_length", "has_sparse"):
        assert getattr(remote, name) == getattr(pocket, name)
    assert remote.weights_digest == pocket.weights_digest
    assert remote_reranker.weights_digest == pocket_reranker.weights_digest
    assert remote_reranker.max_length == pocket_reranker.max_length


@pytest.mark.parametrize(("remote_class", "local_class"), [("remote", Embedder), ("remote_reranker", Reranker)])
def test_it_has_everything_that_the_local_class_has(request, remote_class, local_class):
    model = request.getfixturevalue(remote_class)
    assert isinstance(model, local_class)
    for name, member in inspect.getmembers(local_class):
        if name.startswith("_"):
            continue
        own = getattr(type(model), name)
        if inspect.isfunction(member):
            assert inspect.signature(own).parameters.keys() == inspect.signature(member).parameters.keys()
            if "_session" in inspect.getsource(member):
                assert own is not member
        else:
            getattr(model, name)


def test_tokens_are_the_local_tokens(remote, pocket, own_server):
    long = "bamboo " * 1000  # longer than the model: counted, not truncated
    for kind in ("query", None):
        assert remote.tokens([*TEXTS, long], kind=kind) == pocket.tokens([*TEXTS, long], kind=kind)
        assert remote.count_tokens([*TEXTS, long], kind=kind) == pocket.count_tokens([*TEXTS, long], kind=kind)
        assert remote.too_long([*TEXTS, long], kind=kind) == pocket.too_long([*TEXTS, long], kind=kind) == [len(TEXTS)]
    settings = {"query_instruction": "Find: ", "passage_instruction": "Text: "}
    with load_embedder("pocket", **settings) as local, load_embedder(own_server, **settings) as other:
        for kind in ("query", "passage"):
            found, expected = (
                [(t.id, t.start) for ts in e.tokens(TEXTS, kind=kind) for t in ts] for e in (other, local)
            )
            assert found == expected


@pytest.mark.parametrize("normalize", [False, True])
def test_scores_are_the_local_rerankers(remote_reranker, pocket_reranker, normalize):
    expected = pocket_reranker.score(PAIRS, normalize=normalize)
    assert_close(remote_reranker.score(PAIRS, normalize=normalize), expected)
    assert_close(asyncio.run(remote_reranker.ascore(PAIRS, normalize=normalize)), expected)
    assert remote_reranker.score([]).shape == (0,)


def test_lengths_of_pairs_have_the_local_effect(remote_reranker, pocket_reranker, own_server):
    lengths = {"max_length": 14, "query_max_length": 4, "on_truncate": "ignore"}
    assert_close(remote_reranker.score(PAIRS, **lengths), pocket_reranker.score(PAIRS, **lengths))
    with (
        load_reranker("pocket", max_length=18) as local,
        load_reranker(own_server, max_length=18) as other,
    ):
        arguments = {"on_truncate": "ignore"}
        assert_close(other.score(PAIRS, **arguments), local.score(PAIRS, **arguments))


def test_truncation_is_reported(remote, remote_reranker):
    with pytest.warns(TruncationWarning, match=r"^1 of 2"):
        remote.encode(["a", "panda " * 50], max_length=8)
    with pytest.raises(TextTooLongError):
        remote.encode(["a", "panda " * 50], max_length=8, on_truncate="error")
    with pytest.warns(TruncationWarning):
        remote_reranker.score([("a", "panda " * 50)], max_length=32)
    with pytest.raises(TextTooLongError):
        remote_reranker.score([("a", "panda " * 50)], max_length=32, on_truncate="error")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda e: e.encode("one text"),
        lambda e: e.encode([1]),
        lambda e: e.encode(["\ud800"]),
        lambda e: e.encode(["a"], kind="question"),
        lambda e: e.encode(["a"], dense=False),
        lambda e: e.encode(["a"], max_length=0),
        lambda e: e.encode(["a"], max_length=10**6),
        lambda e: e.encode(["a"], on_truncate="maybe"),
        lambda e: e.encode(["x" * 3_000_000]),
    ],
)
def test_mistakes_are_refused_as_locally(remote, mistake):
    with pytest.raises(InvalidInputError):
        mistake(remote)


def test_dense_and_sparse_adapters_share_a_pass(own_server, batches):
    dense, sparse = load_dense(own_server), load_sparse(own_server)
    batches.clear()
    dense.encode(TEXTS[:3], "passage")
    sparse.encode(TEXTS[:3], "passage")
    assert len(batches) == 1


def test_a_server_with_other_weights_is_noticed(own_server):
    for load, use in (
        (load_embedder, lambda model: model.encode(["a"])),
        (load_reranker, lambda model: model.score([("a", "b")])),
    ):
        with load(own_server) as model:
            model._dialect._model = dataclasses.replace(model._dialect._model, weights="earlier")
            with pytest.raises(WrongModelError):
                use(model)


def test_an_index_made_through_a_server_is_the_local_models_index(own_server, tmp_path, pocket):
    documents = TEXTS[:5]
    with M3Index.open(tmp_path / "remote", own_server) as index:
        index.add(documents, ids=list("abcde"))
        expected = [(hit.id, hit.score) for hit in index.search("panda number 3")]
        stored = json.loads((tmp_path / "remote" / "manifest.json").read_text("utf-8"))
        assert stored["weights"] == pocket.weights_digest
    with M3Index.open(tmp_path / "remote", "pocket") as index:
        found = [(hit.id, hit.score) for hit in index.search("panda number 3")]
    assert [i for i, _ in found] == [i for i, _ in expected]
    assert_close([s for _, s in found], [s for _, s in expected])
    with M3Index.open(tmp_path / "remote") as index:  # by the URL in the manifest
        assert index.embedder.source == own_server
        assert asyncio.run(index.asearch("panda number 3"))[0].id == "d"


def test_a_local_index_opens_with_the_server(own_server, tmp_path):
    with M3Index.open(tmp_path / "local", "pocket", max_length=32) as index:
        index.add(TEXTS[:3], ids=list("abc"))
    with M3Index.open(tmp_path / "local", own_server, create=False) as index:
        assert index.embedder.max_length == 32
        assert index.search("panda number 2")[0].id == "c"


def test_frameworks_take_a_url_as_model(own_server, pocket, pocket_reranker):
    query, passages = pocket.encode_dense(["q"], kind="query")[0], pocket.encode_dense(TEXTS, kind="passage")
    langchain, llama_index = BGEEmbeddings(model=own_server), BGEEmbedding(model_name=own_server)
    assert_close(langchain.embed_query("q"), query)
    assert_close(asyncio.run(langchain.aembed_documents(TEXTS)), passages)
    assert_close(llama_index.get_query_embedding("q"), query)
    assert_close(asyncio.run(llama_index.aget_text_embedding_batch(TEXTS)), passages)
    chroma = BGEEmbeddingFunction(own_server)
    assert_close(chroma(TEXTS), passages)
    assert_close(BGEEmbeddingFunction.build_from_config(chroma.get_config()).embed_query(["q"]), [query])
    assert_close(BGEReranker(model=own_server).score(PAIRS), pocket_reranker.score(PAIRS))
    assert BGERerank(model=own_server, top_n=1).postprocess_nodes([], query_str="q") == []


def test_evaluation_and_pipelines_take_a_remote_model(own_server, remote, remote_reranker, tmp_path):
    data = Dataset(
        queries={"q": "What do pandas eat?"},
        documents={"a": "Pandas eat bamboo.", "b": "Rome is in Italy."},
        qrels={"q": {"a": 1}},
    )
    report = evaluate(data, remote, reranker=remote_reranker, baseline=False)
    assert report.about["embedder"]["weights"] == remote.weights_digest
    assert BGEEncoder(remote).mteb_model_meta.embed_dim == remote.dimension
    documents = [Document(id=key, page_content=text) for key, text in data.documents.items()]
    retriever = langchain_pipelines.dense_retriever(documents, tmp_path, model=own_server, reranker=own_server)
    assert retriever.invoke("What do pandas eat?")[0].id == "a"


def test_commands_take_a_url_as_model(own_server, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Pandas eat bamboo.")
    index = str(tmp_path / "index")
    assert main(["index", str(tmp_path / "a.txt"), "--index", index, "--model", own_server]) == 0
    capsys.readouterr()
    assert main(["search", "bamboo", "--index", index, "--json", "--rerank", own_server]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["text"] == "Pandas eat bamboo."
    other = str(tmp_path / "other")
    assert main(["index", str(tmp_path / "a.txt"), "--index", other, "--model", own_server, "--device", "cpu"]) != 0
    assert not (tmp_path / "other" / "manifest.json").exists()


@pytest.fixture(scope="module")
def guarded():
    with app_server(models=["pocket"], rerankers=["pocket"], preload=False, api_keys=[KEY]) as served:
        yield served.url


@pytest.mark.parametrize(
    "make",
    [
        lambda url, **key: BGEEmbeddings(model=url, **key),
        lambda url, **key: BGEEmbedding(model_name=url, **key),
        lambda url, **key: BGEReranker(model=url, **key),
        lambda url, **key: BGERerank(model=url, **key),
    ],
)
def test_adapters_keep_the_key_to_themselves(guarded, make):
    with pytest.raises(InvalidInputError) as caught:
        make(guarded)
    assert caught.value.argument == "api_key"
    adapter = make(guarded, api_key=KEY)
    shown = [repr(adapter), str(adapter.model_dump()), adapter.model_dump_json(), repr(pickle.dumps(adapter))]
    assert KEY not in "".join(shown)
    for twin in (copy.copy(adapter), copy.deepcopy(adapter), adapter.model_copy()):
        assert twin.api_key.get_secret_value() == KEY
    assert pickle.loads(pickle.dumps(adapter)).api_key is None
    assert adapter.api_key.get_secret_value() == KEY


def test_a_chroma_collection_does_not_store_the_key(guarded, monkeypatch):
    function = BGEEmbeddingFunction(guarded, api_key=KEY)
    assert KEY not in json.dumps(function.get_config())
    assert KEY not in repr(pickle.dumps(function))
    monkeypatch.setenv("BGE_API_KEY", KEY)
    again = BGEEmbeddingFunction.build_from_config(function.get_config())
    assert_close(again(["a"]), function(["a"]))


def test_a_server_without_the_kind_or_name_is_refused(own_server):
    with app_server(models=[], rerankers=["pocket"]) as served:
        with pytest.raises(InvalidInputError) as caught:
            load_embedder(served.url)
        assert caught.value.argument == "model"
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(f"{own_server}?model=other")
    assert str(caught.value).count("pocket") == 1  # the embedder, and not the reranker of the same name
    with load_embedder(f"{own_server}?model=pocket&dialect=bge") as named:
        assert named.name == "pocket"
    with app_server(models=["pocket"], served_model_names=["mine"]) as served:
        with pytest.raises(WrongKindError):
            load_reranker(f"{served.url}?model=mine")
        with load_embedder(f"{served.url}?model=mine") as named:
            assert named.encode_dense(["a"]).shape == (1, named.dimension)


def test_tasks_are_refused_as_by_the_local_model(remote, pocket):
    for embedder in (remote, pocket):
        with pytest.raises(InvalidInputError) as caught:
            embedder.for_task("NFCorpus")
        assert caught.value.argument == "task"
