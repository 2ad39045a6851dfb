"""Arguments of the packages that users come from are refused with the argument to use here."""

import pytest

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import UnknownArgumentError

LOADERS = (load_embedder, load_reranker)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("use_fp16", True, "dtype="),
        ("use_bf16", False, "dtype="),
        ("torch_dtype", "float16", "dtype="),
        ("model_kwargs", {"torch_dtype": "float16"}, "dtype="),
        ("cache_dir", "models", "cache_folder="),
        ("device_map", "auto", "device="),
        ("devices", ["cpu"], "device="),
        ("max_seq_length", 128, "max_length="),
        ("peft_model_id", "adapter", "as the model"),
        ("max_lenght", 128, "max_length"),  # a slip, not another package's name
    ],
)
def test_the_error_names_our_argument(load, name, value, ours):
    with pytest.raises(UnknownArgumentError) as caught:
        load("pocket", **{name: value})
    assert caught.value.argument == name
    assert ours in caught.value.advice


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("name", ["trust_remote_code", "batch_size", "encode_kwargs", "normalize_embeddings", "token"])
def test_the_error_says_why_there_is_no_such_argument(load, name):
    with pytest.raises(UnknownArgumentError) as caught:
        load("no/such-model", **{name: None})  # refused before anything is looked up
    assert caught.value.argument == name
    assert caught.value.advice.startswith(("leave it out", "log in"))


def test_python_catches_it_as_a_type_error():
    with pytest.raises(TypeError):
        load_embedder("pocket", nonsense=1)
