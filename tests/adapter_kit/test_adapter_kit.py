"""A complete adapter built with the kit is short, and its settings match the arguments of the load functions."""

import copy
import pickle
from inspect import signature
from pathlib import Path

import pytest
import toy_framework
from conftest import BASE, M3, RERANKER, assert_close
from toy_framework import ToyEmbedder, ToyReranker, ToySparseEmbedder

from bge_integrations import load_embedder, load_reranker
from bge_integrations.adapter_kit import LazyModel, load_dense
from bge_integrations.adapter_kit.settings import EmbedderSettings, RerankerSettings, checked_settings

DOCUMENTS = [{"text": text, "id": i} for i, text in enumerate(["Pandas eat bamboo.", "Rome lies on the Tiber.", "hi"])]
TEXTS = [document["text"] for document in DOCUMENTS]


def test_an_adapter_of_a_new_framework_takes_at_most_80_lines():
    assert len(Path(toy_framework.__file__).read_text("utf-8").splitlines()) <= 80


async def test_the_toy_adapter_gives_the_cores_vectors_and_scores(base, reranker):
    toy = ToyEmbedder(BASE, max_length=100)
    assert_close(toy.embed(DOCUMENTS), base.encode(TEXTS, kind="passage").dense)
    assert_close(toy.ask("hi"), base.encode(["hi"], kind="query").dense[0])
    assert_close(await toy.aembed(DOCUMENTS), toy.embed(DOCUMENTS))
    ranked = ToyReranker(RERANKER, top_n=2).rank("hi", DOCUMENTS)
    assert [each["score"] for each in ranked] == sorted(reranker.score([("hi", text) for text in TEXTS]))[:0:-1]
    assert await ToyReranker(RERANKER, top_n=2).arank("hi", DOCUMENTS) == ranked


def test_a_hybrid_store_of_toys_costs_one_pass(lengths, m3):
    dense, sparse = ToyEmbedder(M3), ToySparseEmbedder(M3)
    dense.embed(DOCUMENTS)
    weights = sparse.embed(DOCUMENTS)
    sparse.ask("q")
    dense.ask("q")
    assert len(lengths()) == len(DOCUMENTS) + 1
    expected = m3.encode(TEXTS, sparse=True).sparse.to_dicts()
    assert [each.keys() for each in weights] == [each.keys() for each in expected]


def test_pickled_toys_have_no_weights():
    toy = ToyEmbedder(BASE)
    carried = pickle.dumps(toy)
    assert len(carried) < 2000
    assert_close(pickle.loads(carried).ask("hi"), toy.ask("hi"))


def test_toys_refuse_unknown_settings():
    with pytest.raises(TypeError, match=r"max_lenght.*max_length"):
        ToyEmbedder(BASE, max_lenght=100)
    with pytest.raises(TypeError, match=r"pooling.*load_reranker"):
        ToyReranker(RERANKER, pooling="cls")


@pytest.mark.parametrize(
    ("load", "settings", "named_by_adapters"),
    [
        (load_embedder, EmbedderSettings, {"model", "passage_instruction"}),
        (load_reranker, RerankerSettings, {"model"}),
    ],
)
def test_adapters_declare_every_argument_of_the_functions_that_load(load, settings, named_by_adapters):
    arguments = {name: parameter.default for name, parameter in signature(load).parameters.items()}
    declared = {name: field.default for name, field in settings.model_fields.items()}
    assert declared == {name: default for name, default in arguments.items() if name not in named_by_adapters}
    assert all(field.description for field in settings.model_fields.values())
    assert checked_settings(load, {}).keys() == arguments.keys() - {"model"}


def test_a_lazy_model_is_loaded_once_and_again_for_other_settings(model_uses):
    lazy = LazyModel(load_dense)
    assert not model_uses
    first = lazy.get({"model": BASE})
    assert lazy.get({"model": BASE}) is first
    assert lazy.get({"model": BASE, "max_length": 20}) is not first
    assert len(model_uses) == 2


def test_copies_of_a_lazy_model_are_independent_and_pickles_are_empty(model_uses):
    lazy = LazyModel(load_dense)
    loaded = lazy.get({"model": BASE})
    twin = copy.copy(lazy)
    assert twin.get({"model": BASE}) is loaded
    twin.get({"model": BASE, "max_length": 20})
    assert lazy.get({"model": BASE}) is loaded
    model_uses.clear()
    pickle.loads(pickle.dumps(lazy)).get({"model": BASE})
    assert len(model_uses) == 1
