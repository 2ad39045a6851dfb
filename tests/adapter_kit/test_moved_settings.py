"""Arguments of the classes that people move from are refused with the name of ours."""

import pickle

import pytest
from pydantic import ValidationError

from bge_integrations.errors import InvalidInputError
from bge_integrations.moved_arguments import advice_for


def adapters():
    from bge_integrations import langchain, llama_index
    from bge_integrations.chroma import BGEEmbeddingFunction

    return {
        "BGEEmbeddings": langchain.BGEEmbeddings,
        "BGEReranker": langchain.BGEReranker,
        "BGESparseEmbeddings": langchain.BGESparseEmbeddings,
        "BGEMilvusSparseEmbeddings": langchain.BGEMilvusSparseEmbeddings,
        "BGEM3Retriever": lambda **settings: langchain.BGEM3Retriever.from_texts([], **settings),
        "LangChain BGEM3VectorStore": lambda **settings: langchain.BGEM3VectorStore.from_texts([], **settings),
        "BGEEmbedding": llama_index.BGEEmbedding,
        "BGESparseEmbedding": llama_index.BGESparseEmbedding,
        "BGERerank": llama_index.BGERerank,
        "BGEM3Index": llama_index.BGEM3Index,
        "LlamaIndex BGEM3VectorStore": llama_index.BGEM3VectorStore.open,
        "BGEEmbeddingFunction": BGEEmbeddingFunction,
    }


EMBEDDERS = ["BGEEmbeddings", "BGESparseEmbeddings", "BGEMilvusSparseEmbeddings", "BGEM3Retriever", "BGEEmbedding",
             "BGESparseEmbedding", "BGEM3Index", "BGEEmbeddingFunction", "LangChain BGEM3VectorStore",
             "LlamaIndex BGEM3VectorStore"]  # fmt: skip
RERANKERS = ["BGEReranker", "BGERerank"]
ADVICE = [
    *(("model_kwargs", {"device": "cpu"}, "device=", adapter) for adapter in EMBEDDERS + RERANKERS),
    *(("use_fp16", True, "dtype=", adapter) for adapter in EMBEDDERS + RERANKERS),
    *(("cache_dir", "x", "cache_folder=", adapter) for adapter in EMBEDDERS + RERANKERS),
    *(("devices", ["cuda:0"], "device=", adapter) for adapter in EMBEDDERS + RERANKERS),
    *(("trust_remote_code", True, "leave it out", adapter) for adapter in EMBEDDERS + RERANKERS),
    *(("max_lenght", 3, "max_length", adapter) for adapter in EMBEDDERS + RERANKERS),
    *(("encode_kwargs", {"normalize_embeddings": True}, "unit length", adapter) for adapter in EMBEDDERS),
    *(("query_encode_kwargs", {}, "query_instruction=", adapter) for adapter in EMBEDDERS),
    *(("query_instruction_for_retrieval", "x", "query_instruction=", adapter) for adapter in EMBEDDERS),
    *(("batch_size", 8, "embed_batch_size=", adapter) for adapter in ("BGEEmbedding", "BGESparseEmbedding")),
    *(("batch_size", 8, "leave it out", adapter) for adapter in ("BGEEmbeddings", "BGEM3Index", *RERANKERS)),
    *(("top_k", 3, "top_n=", adapter) for adapter in RERANKERS),
    *(("topn", 3, "top_n=", adapter) for adapter in RERANKERS),
    ("top_k", 3, "k=", "BGEM3Retriever"),
    ("normalize_embeddings", True, "normalize=", "BGEEmbedding"),
    ("normalize_embeddings", True, "unit length", "BGEEmbeddings"),
    ("normalize_embeddings", True, "unit length", "BGEEmbeddingFunction"),
    ("embed_instruction", "x", "passage_instruction=", "BGEEmbeddings"),
    ("passage_instruction", "x", "text_instruction=", "BGEEmbedding"),
    ("text_instruction", "x", "passage_instruction=", "BGEEmbeddings"),
    ("show_progress_bar", True, "show_progress=", "BGEEmbeddings"),
    ("show_progress", True, "show_progress_bar=", "BGEEmbedding"),
    ("parallel_process", True, "device=", "BGEEmbedding"),
    ("model", "pocket", "model_name=", "BGEEmbeddingFunction"),
]


@pytest.mark.parametrize(("argument", "value", "advice", "adapter"), ADVICE)
def test_an_argument_of_another_class_names_ours(argument, value, advice, adapter):
    name = "model_name" if adapter == "BGEEmbeddingFunction" else "model"
    settings = {} if argument == name or argument == "model" else {name: "pocket"}
    with pytest.raises((ValidationError, InvalidInputError, TypeError)) as raised:
        adapters()[adapter](**settings, **{argument: value})
    assert argument in str(raised.value)
    assert advice in str(raised.value)


@pytest.mark.parametrize("adapter", [a for a in EMBEDDERS + RERANKERS if a != "BGEEmbeddingFunction"])
def test_both_names_of_the_model_work(adapter):
    made = [adapters()[adapter](**{name: "pocket"}) for name in ("model", "model_name")]
    assert [each.model_name for each in made] == ["pocket", "pocket"]
    for each in made:
        if hasattr(each, "close"):
            each.close()


def test_the_model_can_be_given_by_position():
    from bge_integrations.llama_index import BGEEmbedding, BGESparseEmbedding

    for adapter in (BGEEmbedding, BGESparseEmbedding):
        made = adapter("pocket", max_length=64)
        assert (made.model_name, made.max_length) == ("pocket", 64)
        for twin in (pickle.loads(pickle.dumps(made)), adapter(**made.model_dump()), made.model_copy()):
            assert (twin.model_name, twin.max_length) == ("pocket", 64)
        for again in ({"model": "pocket"}, {"model_name": "pocket"}):
            with pytest.raises(TypeError, match="twice"):
                adapter("pocket", **again)


def test_only_known_names_are_suggested():
    assert advice_for("top_k", ["k"]) == "use k="
    assert "k=" not in advice_for("top_k", ["device"])
    assert advice_for("colour", ["device"]) is None
    assert advice_for("devcie", ["device"]) == "did you mean device?"
