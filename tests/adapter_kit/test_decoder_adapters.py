"""Decoder embedders and LLM rerankers in the adapters: the core's values, saved settings, misuse refused."""

import json
import pickle
import shutil

import numpy as np
import pytest
from conftest import BASE, CHECKPOINTS, assert_close
from langchain_core.documents import Document
from langchain_core.load import dumps
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from bge_integrations import load_embedder, load_reranker
from bge_integrations.chroma import BGEEmbeddingFunction
from bge_integrations.errors import InvalidInputError
from bge_integrations.langchain import BGEEmbeddings, BGEReranker
from bge_integrations.llama_index import BGEEmbedding, BGERerank

ICL = str(CHECKPOINTS / "bge-en-icl")
INSTRUCT = str(CHECKPOINTS / "bge-multilingual-gemma2")
LLM = str(CHECKPOINTS / "bge-reranker-v2-gemma")
LAYERWISE = str(CHECKPOINTS / "bge-reranker-v2-minicpm-layerwise")
LIGHTWEIGHT = str(CHECKPOINTS / "bge-reranker-v2.5-gemma2-lightweight")

TEXTS = ["Pandas eat bamboo.", "hi", "A dense retriever compares vectors."]
EXAMPLES = [
    {"instruct": "Find the animal.", "query": "what is panda?", "response": "a bear"},
    {"query": "hi", "response": "hello"},
]
EMBEDDERS = [
    (ICL, {}),
    (ICL, {"examples": EXAMPLES}),
    (ICL, {"examples": EXAMPLES, "query_instruction": "Answer the question."}),
    (INSTRUCT, {"task": "sts"}),
    (INSTRUCT, {"query_instruction": "Find the same."}),
]
RERANKERS = [
    (LLM, {}),
    (LLM, {"prompt": "Is B about A?"}),
    (LAYERWISE, {"cutoff_layers": 3}),
    (LIGHTWEIGHT, {"cutoff_layers": 5, "compress_ratio": 2, "compress_layers": [2, 4]}),
]


@pytest.mark.parametrize(("model", "settings"), EMBEDDERS)
def test_vectors_are_the_cores(model, settings):
    with load_embedder(model, **settings) as core:
        query = core.encode(["hi"], kind="query").dense[0]
        passages = core.encode(TEXTS, kind="passage").dense
    langchain = BGEEmbeddings(model=model, **settings)
    assert_close(langchain.embed_query("hi"), query)
    assert_close(langchain.embed_documents(TEXTS), passages)
    llama_index = BGEEmbedding(model_name=model, **settings)
    assert_close(llama_index.get_query_embedding("hi"), query)
    assert_close(llama_index.get_text_embedding_batch(TEXTS), passages)
    chroma = BGEEmbeddingFunction(model, **settings)
    assert_close(chroma.embed_query(["hi"])[0], query)
    assert_close(chroma(TEXTS), passages)


@pytest.fixture(params=["langchain", "llama_index"])
def make_embedding(request):
    """Return a function that makes the framework's embedding adapter."""
    if request.param == "langchain":
        return lambda model=ICL, **settings: BGEEmbeddings(model=model, **settings)
    return lambda model=ICL, **settings: BGEEmbedding(model_name=model, **settings)


@pytest.fixture(params=["langchain", "llama_index"])
def make_reranker(request):
    """Return a function that makes the framework's reranking adapter."""
    return BGEReranker if request.param == "langchain" else BGERerank


def query_vector(embedding):
    return embedding.embed_query("hi") if isinstance(embedding, BGEEmbeddings) else embedding.get_query_embedding("hi")


def test_task_instruction_is_an_alias(make_embedding):
    one = make_embedding(task_instruction="Answer the question.")
    assert one.query_instruction == "Answer the question."
    assert one.model_dump() == make_embedding(query_instruction="Answer the question.").model_dump()
    assert query_vector(one) != query_vector(make_embedding())
    assert make_embedding(task_instruction="Find.", query_instruction="Find.").query_instruction == "Find."
    assert make_embedding(task_instruction=None, query_instruction="Find.").query_instruction == "Find."
    with pytest.raises(ValidationError, match=r"query_instruction.*task_instruction"):
        make_embedding(task_instruction="Find.", query_instruction="Answer.")


def test_wrong_examples_and_tasks_are_refused(make_embedding):
    with pytest.raises(InvalidInputError, match=r"examples\[0\].*query.*response"):
        make_embedding(examples=[{"query": "q"}])
    with pytest.raises(ValidationError, match="examples"):
        make_embedding(examples={"query": "q", "response": "r"})
    with pytest.raises(InvalidInputError, match="takes no examples"):
        make_embedding(BASE, examples=EXAMPLES)
    with pytest.raises(InvalidInputError, match="task='qa'"):
        make_embedding(task="qa")


def test_examples_changed_in_place_take_effect(make_embedding):
    changed = make_embedding(examples=[{"query": "hi", "response": "hello"}])
    before = query_vector(changed)
    changed.examples[0]["response"] = "good evening"
    assert query_vector(changed) != before


def test_embedding_settings_survive_copies(make_embedding):
    original = make_embedding(examples=EXAMPLES, task_instruction="Answer the question.")
    dumped = json.loads(json.dumps(original.model_dump(exclude={"callback_manager"})))
    for twin in (type(original)(**dumped), pickle.loads(pickle.dumps(original)), original.model_copy(deep=True)):
        assert (twin.examples, twin.query_instruction) == (EXAMPLES, "Answer the question.")
        assert query_vector(twin) == query_vector(original)
    if isinstance(original, BGEEmbedding):
        twin = BGEEmbedding.from_dict(json.loads(json.dumps(original.to_dict())))
        assert twin.to_dict() == original.to_dict()
        assert twin.examples == EXAMPLES
    else:
        assert "Answer the question." in dumps(original)
        assert "what is panda?" in dumps(original)


def test_a_cache_separates_queries_by_examples_and_instruction():
    """Texts still share their cached vectors, because examples and instruction only apply to queries."""
    store = SimpleKVStore()
    for settings in ({}, {"examples": EXAMPLES[:1]}, {"examples": EXAMPLES}, {"task_instruction": "Find."}):
        cached = BGEEmbedding(model_name=ICL, embeddings_cache=store, **settings)
        plain = BGEEmbedding(model_name=ICL, **settings)
        assert_close(cached.get_query_embedding("hi"), plain.get_query_embedding("hi"))
        assert_close(cached.get_text_embedding("hi"), plain.get_text_embedding("hi"))
    assert len(store.get_all(collection="embeddings")) == 4 + 1


def test_chroma_stores_examples_with_the_collection():
    given = [dict(example) for example in EXAMPLES]
    function = BGEEmbeddingFunction(ICL, examples=given, query_instruction="Answer the question.")
    given[0]["response"] = "something else"
    config = json.loads(json.dumps(function.get_config()))
    assert config["examples"] == EXAMPLES
    twin = BGEEmbeddingFunction.build_from_config(config)
    assert twin.get_config() == config
    assert_close(twin.embed_query(["hi"]), function.embed_query(["hi"]))
    assert config["made_by"] == BGEEmbeddingFunction(ICL).get_config()["made_by"]  # documents are embedded the same way
    del config["examples"]  # stored by a release without examples
    assert_close(BGEEmbeddingFunction.build_from_config(config)(TEXTS), function(TEXTS))


def rerank_texts(reranker):
    """Rerank `TEXTS` and return (text, score) pairs."""
    if isinstance(reranker, BGEReranker):
        found = reranker.compress_documents([Document(text) for text in TEXTS], "panda")
        return [(document.page_content, document.metadata["relevance_score"]) for document in found]
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS]
    return [(node.text, node.score) for node in reranker.postprocess_nodes(nodes, query_str="panda")]


@pytest.mark.parametrize(("model", "settings"), RERANKERS)
def test_scores_are_the_cores(make_reranker, model, settings):
    with load_reranker(model, **settings) as core:
        scores = core.score([("panda", text) for text in TEXTS])
    found = rerank_texts(make_reranker(model=model, top_n=2, **settings))
    order = np.argsort(-scores)[:2]
    assert [text for text, _ in found] == [TEXTS[place] for place in order]
    assert_close([score for _, score in found], scores[order])
    if make_reranker is BGEReranker:
        assert_close(BGEReranker(model=model, **settings).score([("panda", text) for text in TEXTS]), scores)


@pytest.mark.parametrize("cutoffs", [[3, 5], (3, 5), []])
def test_an_adapter_ranks_by_one_cutoff(make_reranker, cutoffs):
    with pytest.raises(ValidationError, match="cutoff_layers"):
        make_reranker(model=LAYERWISE, cutoff_layers=cutoffs)
    changed = make_reranker(model=LAYERWISE, cutoff_layers=[5])
    assert changed.cutoff_layers == 5
    with pytest.raises(ValidationError, match="cutoff_layers"):
        changed.cutoff_layers = cutoffs


@pytest.mark.parametrize(
    ("model", "settings", "argument"),
    [
        (LAYERWISE, {"cutoff_layers": 1}, "has scores after 2, 3, 4, 5, 6 layers"),
        (LAYERWISE, {"compress_ratio": 2}, "compress passages"),
        (LIGHTWEIGHT, {"compress_ratio": 3}, "compress_ratio=3 is not one of 1, 2, 4, 8"),
        ("pocket", {"cutoff_layers": 2}, "after its last layer only; leave cutoff_layers= out"),
        ("pocket", {"prompt": "Is it?"}, "takes no prompt"),
    ],
)
def test_settings_that_do_not_fit_the_reranker_are_refused(make_reranker, model, settings, argument):
    with pytest.raises(InvalidInputError, match=argument):
        make_reranker(model=model, **settings)


def test_a_custom_reranker_needs_a_family(make_reranker, tmp_path):
    own = shutil.copytree(LLM, tmp_path / "my-reranker")
    with pytest.raises(InvalidInputError, match="is not a reranker"):
        make_reranker(model=own)
    found = rerank_texts(make_reranker(model=own, family="llm_reranker"))
    assert found == rerank_texts(make_reranker(model=LLM))


def test_reranker_settings_survive_copies_and_changes_take_effect(make_reranker):
    settings = {"cutoff_layers": 5, "compress_ratio": 2, "compress_layers": [2, 4], "prompt": "Is B about A?"}
    original = make_reranker(model=LIGHTWEIGHT, **settings)
    dumped = json.loads(json.dumps(original.model_dump(exclude={"callback_manager"})))
    for twin in (make_reranker(**dumped), pickle.loads(pickle.dumps(original)), original.model_copy(deep=True)):
        assert {name: getattr(twin, name) for name in settings} == settings
        assert rerank_texts(twin) == rerank_texts(original)
    if make_reranker is BGERerank:
        assert BGERerank.from_dict(json.loads(json.dumps(original.to_dict()))).to_dict() == original.to_dict()
    else:
        assert "Is B about A?" in dumps(original)
    before = rerank_texts(original)
    original.compress_layers.pop()
    assert rerank_texts(original) != before
