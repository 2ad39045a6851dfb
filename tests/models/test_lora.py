"""LoRA adapters are loaded over their base, with the results of peft's merge_and_unload."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, CHECKPOINTS, M3, assert_close
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from servers import app_server, wait_until_ready
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    NotSupportedError,
    WrongKindError,
    WrongModelError,
)
from bge_integrations.index import M3Index

TEXTS = ["the giant panda eats bamboo", "a heron", "", "大熊猫 eats 竹子 every day"]
PAIRS = [("what does a panda eat?", text) for text in TEXTS]
ENCODER = ["query", "key", "value", "dense"]
DECODER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERWISE = "bge-reranker-v2-minicpm-layerwise"
LIGHTWEIGHT = "bge-reranker-v2.5-gemma2-lightweight"


def train(model, config, folder):
    """Wrap a model, change all that peft would train, save the adapter, and merge it."""
    torch.manual_seed(0)
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload()


def trained(tmp_path, name, make, config=None, **settings):
    """Return the folders of an adapter of a tiny checkpoint, and of the checkpoint that peft merges it into."""
    base, merged = CHECKPOINTS / name, shutil.copytree(CHECKPOINTS / name, tmp_path / "merged" / name)
    model = make.from_pretrained(base, **(config or {}))
    train(model, LoraConfig(**{"r": 4, "lora_alpha": 6, **settings}), tmp_path / "adapter").save_pretrained(merged)
    return tmp_path / "adapter", merged


def vectors(model, **settings):
    with load_embedder(model, **settings) as embedder:
        return embedder.encode(TEXTS, kind="query").dense


def scores(model, **settings):
    with load_reranker(model, **settings) as reranker:
        return reranker.score(PAIRS)


@pytest.fixture(scope="module")
def adapter_and_merged(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("lora"), "bge-base-en-v1.5", AutoModel, target_modules=ENCODER)


@pytest.fixture(scope="module")
def adapter(adapter_and_merged):
    """The folder of an adapter of the tiny bge-base-en-v1.5; don't change it."""
    return adapter_and_merged[0]


@pytest.fixture
def own(adapter, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(adapter, tmp_path / "own")


def change(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


# -- the same as peft ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"bias": "lora_only"},
        {"bias": "all"},
        {"lora_bias": True},
        {"use_dora": True},
        {"use_dora": True, "bias": "all", "use_rslora": True},
        {"rank_pattern": {"layer.0.attention.self.query": 2, "value": 3}, "alpha_pattern": {"^encoder.*key": 9}},
        {"layers_to_transform": [1], "target_modules": ["query"]},
        {"target_modules": ["query", "word_embeddings"]},
        {"target_modules": ["query"], "modules_to_save": ["word_embeddings", "intermediate"]},
        {"fan_in_fan_out": True},  # has no effect on linears
        {"init_lora_weights": "gaussian"},
    ],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:fan_in_fan_out")
def test_an_encoder_embedder(tmp_path, settings):
    adapter, merged = trained(tmp_path, "bge-base-en-v1.5", AutoModel, **{"target_modules": ENCODER, **settings})
    found = vectors(adapter)
    assert_close(found, vectors(merged), 2e-6)
    assert np.abs(found - vectors(BASE)).max() > 0.01


def test_the_vectors_are_those_of_the_merged_model_itself(tmp_path):
    config = LoraConfig(r=4, target_modules=["query", "value"])
    merged = train(AutoModel.from_pretrained(BASE), config, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    with torch.inference_mode():
        states = [merged(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in TEXTS]
    expected = nn.functional.normalize(torch.stack(states), dim=-1).numpy()
    assert_close(vectors(tmp_path / "adapter", query_instruction=""), expected)


@pytest.mark.parametrize("name", ["bge-reranker-v2-m3", "bert-reranker"])
def test_an_encoder_reranker_with_its_own_classifier(tmp_path, name):
    adapter, merged = trained(
        tmp_path, name, AutoModelForSequenceClassification, task_type="SEQ_CLS", target_modules=["query", "value"]
    )
    assert "classifier" in json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"]
    found = scores(adapter)
    assert_close(found, scores(merged), 2e-6)
    assert np.abs(found - scores(CHECKPOINTS / name)).max() > 0.01


def test_a_reranker_trained_from_an_embedder(tmp_path):
    adapter, merged = trained(
        tmp_path,
        "bge-m3",
        AutoModelForSequenceClassification,
        {"num_labels": 1},
        task_type="SEQ_CLS",
        target_modules=["query"],
    )
    merged = merged.rename(merged.with_name("merged"))  # bge-m3 is the name of an embedder
    assert_close(scores(adapter), scores(merged), 2e-6)
    with pytest.raises(WrongKindError):
        load_embedder(adapter)


@pytest.mark.parametrize("name", ["bge-multilingual-gemma2", "bge-en-icl"])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["embed_tokens"]}])
def test_a_decoder_embedder(tmp_path, name, settings):
    adapter, merged = trained(tmp_path, name, AutoModel, target_modules=DECODER, **settings)
    assert_close(vectors(adapter), vectors(merged), 2e-6)


def test_a_decoder_embedder_trained_as_a_language_model(tmp_path):
    adapter, merged = trained(
        tmp_path, "bge-en-icl", AutoModelForCausalLM, task_type="CAUSAL_LM", target_modules=DECODER
    )
    assert_close(vectors(adapter), vectors(merged), 2e-6)


def test_an_llm_reranker(tmp_path):
    adapter, merged = trained(
        tmp_path, "bge-reranker-v2-gemma", AutoModelForCausalLM, task_type="CAUSAL_LM", target_modules=DECODER
    )
    assert_close(scores(adapter), scores(merged), 2e-6)


class _Tree(nn.Module):
    """Modules with the names and tensors of a checkpoint whose architecture transformers does not have."""

    def add(self, name, tensor):
        head, _, rest = name.partition(".")
        if rest == "weight" and tensor.dim() == 2:
            layer = nn.Embedding if "embed" in head else nn.Linear
            module = layer(*(tensor.shape if layer is nn.Embedding else tensor.shape[::-1]), **_no_bias(layer))
            module.weight = nn.Parameter(tensor)
            self.add_module(head, module)
        elif rest:
            if not hasattr(self, head):
                self.add_module(head, _Tree())
            getattr(self, head).add(rest, tensor)
        else:
            self.register_parameter(head, nn.Parameter(tensor))


def _no_bias(layer):
    return {"bias": False} if layer is nn.Linear else {}


@pytest.mark.parametrize(("name", "layers"), [(LAYERWISE, None), (LAYERWISE, 4), (LIGHTWEIGHT, None)])
def test_a_layerwise_reranker_with_its_own_heads(tmp_path, name, layers):
    merged = shutil.copytree(CHECKPOINTS / name, tmp_path / "merged" / name)
    tree = _Tree()
    for key, tensor in load_file(merged / "model.safetensors").items():
        tree.add(key, tensor)
    config = LoraConfig(r=4, target_modules=DECODER, modules_to_save=["lm_head"])
    config.base_model_name_or_path = str(CHECKPOINTS / name)
    whole = train(tree, config, tmp_path / "adapter")
    change(tmp_path / "adapter", base_model_name_or_path=str(CHECKPOINTS / name))
    save_file({key: tensor.contiguous() for key, tensor in whole.state_dict().items()}, merged / "model.safetensors")
    found = scores(tmp_path / "adapter", cutoff_layers=layers)
    assert_close(found, scores(merged, cutoff_layers=layers), 2e-6)
    assert np.abs(found - scores(CHECKPOINTS / name, cutoff_layers=layers)).max() > 0.01


def test_added_tokens(tmp_path):
    """The adapter's folder has its own tokenizer and embeddings."""
    base, merged = CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "merged" / "bge-base-en-v1.5"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<panda>", "<heron>"])
    model = AutoModel.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(r=4, target_modules=["query"])
    whole = train(model, config, tmp_path / "adapter")
    whole.save_pretrained(merged)
    for folder in (tmp_path / "adapter", merged):
        tokenizer.save_pretrained(folder)
    with load_embedder(tmp_path / "adapter") as ours, load_embedder(merged) as expected:
        texts = ["a <panda> and a <heron>"]
        assert ours.count_tokens(texts) == expected.count_tokens(texts)
        assert_close(ours.encode(texts).dense, expected.encode(texts).dense, 2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_in_the_old_format(own, adapter, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(own / "adapter_model.safetensors").items()}
    (own / "adapter_model.safetensors").unlink()
    torch.save(tensors, own / "adapter_model.bin")
    assert_close(vectors(own), vectors(adapter), 0 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_dtypes(adapter_and_merged, dtype):
    adapter, merged = adapter_and_merged
    assert_close(vectors(adapter, dtype=dtype), vectors(merged, dtype=dtype), 0.02)


# -- the base ------------------------------------------------------------------------------------------------


def test_instruction_and_pooling_are_those_of_the_base(adapter):
    with load_embedder(adapter) as embedder, load_embedder(BASE) as base:
        assert embedder.query_instruction == base.query_instruction != ""
        assert (embedder.pooling, embedder.max_length) == (base.pooling, base.max_length)
        assert embedder.name == str(adapter)
        assert embedder.source == str(adapter.resolve())
        assert embedder.revision is None


def test_settings_saved_with_the_adapter(own):
    files = {
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        ],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 12},
        "config_sentence_transformers.json": {"prompts": {"query": "find: ", "document": ""}},
    }
    (own / "1_Pooling").mkdir()
    for name, content in files.items():
        (own / name).write_text(json.dumps(content))
    with load_embedder(own) as embedder:
        assert (embedder.pooling, embedder.max_length, embedder.query_instruction) == ("mean", 12, "find: ")


@pytest.mark.parametrize("base", ["bge-base-en-v1.5", "./bge-base-en-v1.5", "../bge-base-en-v1.5"])
def test_a_relative_base(own, adapter, base):
    shutil.copytree(BASE, own.parent / "bge-base-en-v1.5")
    change(own, base_model_name_or_path=base)
    assert_close(vectors(own), vectors(adapter), 0)


def test_a_base_relative_to_the_working_directory(own, adapter, tmp_path, monkeypatch):
    shutil.copytree(BASE, tmp_path / "elsewhere" / "models" / "bge-base-en-v1.5")
    change(own, base_model_name_or_path="models/bge-base-en-v1.5")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_close(vectors(own), vectors(adapter), 0)


def test_a_base_and_an_adapter_in_the_cache(adapter, tmp_path):
    for owner, name, source in (("BAAI", "bge-base-en-v1.5", BASE), ("me", "panda-lora", adapter)):
        repository = tmp_path / f"models--{owner}--{name}"
        snapshot = shutil.copytree(source, repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
    change(snapshot, base_model_name_or_path="BAAI/bge-base-en-v1.5")
    settings = {"cache_folder": str(tmp_path), "local_files_only": True}
    with load_embedder("me/panda-lora", **settings) as embedder:
        assert (embedder.name, embedder.source, embedder.revision) == ("me/panda-lora", "me/panda-lora", "0" * 40)
        assert embedder.query_instruction != ""
        assert_close(embedder.encode(TEXTS, kind="query").dense, vectors(adapter), 0)


@pytest.mark.parametrize("base", ["/nowhere/bge-base-en-v1.5", "./nowhere", "nowhere", "BAAI/bge-base-en-v1.5"])
def test_a_missing_base_is_named(own, base, tmp_path):
    change(own, base_model_name_or_path=base)
    with pytest.raises(CheckpointNotFoundError) as caught:
        load_embedder(own, cache_folder=str(tmp_path / "empty"), local_files_only=True)
    assert base in caught.value.finding
    assert "base_model_name_or_path" in caught.value.advice


@pytest.mark.parametrize("base", [None, "", 7])
def test_no_base(own, base):
    change(own, base_model_name_or_path=base)
    with pytest.raises(CheckpointError):
        load_embedder(own)


def test_an_adapter_of_an_adapter(own, adapter):
    change(own, base_model_name_or_path=str(adapter))
    with pytest.raises(NotSupportedError):
        load_embedder(own)


# -- the identity of the weights -----------------------------------------------------------------------------


def digest(model, load=load_embedder):
    with load(model) as loaded:
        return loaded.weights_digest


def test_the_digest_depends_on_base_adapter_and_scale_but_not_on_paths(own, adapter, tmp_path):
    digests = [digest(BASE), digest(adapter)]
    base = shutil.copytree(BASE, tmp_path / "moved" / "bge-base-en-v1.5")
    change(own, base_model_name_or_path=str(base), peft_version="0.1", inference_mode=False)
    assert digest(own) == digests[1]
    change(own, lora_alpha=7)
    digests.append(digest(own))
    change(own, lora_alpha=6)
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, base / "model.safetensors")
    digests.append(digest(own))
    assert len(set(digests)) == len(digests)


def test_a_changed_adapter_or_base_is_noticed_while_a_copy_is_in_memory(own, tmp_path):
    base = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    change(own, base_model_name_or_path=str(base))
    with load_embedder(own) as first:
        before = first.encode(TEXTS).dense
        change(own, lora_alpha=60)
        with load_embedder(own) as second:
            changed = second.encode(TEXTS).dense
            assert np.abs(changed - before).max() > 0.01
            tensors = load_file(base / "model.safetensors")
            save_file({name: tensor * 1.1 for name, tensor in tensors.items()}, base / "model.safetensors")
            with load_embedder(own) as third:
                assert np.abs(third.encode(TEXTS).dense - changed).max() > 0.001
        with load_embedder(base) as alone:
            assert np.abs(alone.encode(TEXTS).dense - changed).max() > 0.001


def test_an_index_made_with_an_adapter_does_not_open_with_its_base(tmp_path):
    adapter = trained(tmp_path, "bge-m3", AutoModel, target_modules=["query"])[0]
    with M3Index.open(tmp_path / "index", model=str(adapter)) as index:
        index.add(TEXTS[:2])
    with M3Index.open(tmp_path / "index") as index:  # finds the adapter again
        assert len(index) == 2
    with pytest.raises(WrongModelError):
        M3Index.open(tmp_path / "index", model=M3)


# -- what is refused -----------------------------------------------------------------------------------------


def test_another_kind_of_adapter(tmp_path):
    config = IA3Config(target_modules=["key"], feedforward_modules=[])
    get_peft_model(AutoModel.from_pretrained(BASE), config).save_pretrained(tmp_path)
    with pytest.raises(NotSupportedError, match="IA3"):
        load_embedder(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("trainable_token_indices", [3]),
        ("layer_replication", [[0, 2]]),
        ("alora_invocation_tokens", [1]),
        ("a_feature_of_tomorrow", True),
    ],
)
def test_what_cannot_be_merged_is_named(own, name, value):
    change(own, **{name: value})
    with pytest.raises(NotSupportedError, match=name):
        load_embedder(own)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": None},
        {"r": "four"},
        {"r": 5},
        {"lora_alpha": None},
        {"lora_alpha": float("nan")},
        {"rank_pattern": {"query": 3}},
        {"rank_pattern": [3]},
        {"rank_pattern": {"(": 3}},
        {"use_dora": True},
        {"modules_to_save": ["word_embeddings"]},
    ],
)
def test_settings_that_do_not_fit(own, settings):
    change(own, **settings)
    with pytest.raises(CheckpointError):
        load_embedder(own)


_QUERY = "base_model.model.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("base_model.model.encoder.layer.9.attention.self.query.lora_A.weight", None),  # no such layer
        (f"{_QUERY}.lora_A.weight", (3, 64)),  # another rank
        (f"{_QUERY}.lora_A.weight", (4, 65)),  # another width
        (f"{_QUERY}.lora_B.weight", (65, 4)),
        (f"{_QUERY}.lora_B.bias", (1,)),
        (f"{_QUERY}.lora_C.weight", (4, 4)),
        (f"{_QUERY}.lora_magnitude_vector", (64,)),
        ("base_model.model.head.weight", (4, 4)),  # a module that the model does not have
        (f"{_QUERY}.bias", (63,)),
    ],
)
def test_tensors_that_do_not_fit(own, name, shape):
    file = own / "adapter_model.safetensors"
    tensors = load_file(file)
    if shape is None:
        tensors[name] = tensors[f"{_QUERY}.lora_A.weight"].clone()
        tensors[name.replace("lora_A", "lora_B")] = tensors[f"{_QUERY}.lora_B.weight"].clone()
    else:
        tensors[name] = torch.ones(shape)
    save_file(tensors, file)
    with pytest.raises((CheckpointError, NotSupportedError)):
        load_embedder(own)


@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "adapter_config.json", f"{_QUERY}.lora_B.weight"])
def test_what_is_missing_is_named(own, lost):
    file = own / "adapter_model.safetensors"
    if (own / lost).exists():
        (own / lost).unlink()
    else:
        save_file({name: tensor for name, tensor in load_file(file).items() if name != lost}, file)
    with pytest.raises(
        CheckpointError, match=Path(lost).stem.removesuffix(".lora_B").removeprefix("base_model.model.")
    ):
        load_embedder(own)


def test_tied_embeddings_of_an_llm_reranker(tmp_path):
    base = CHECKPOINTS / "bge-reranker-v2-gemma"
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path)
    with pytest.raises(NotSupportedError):
        load_reranker(tmp_path)


def test_an_adapter_of_an_embedder_is_not_a_reranker(adapter):
    with pytest.raises(WrongKindError):
        load_reranker(adapter)


def test_a_server_serves_an_adapter(adapter):
    with app_server(models=[str(adapter)]) as served:
        wait_until_ready(served)
        answer = served.api.post("/v1/embeddings", json={"model": adapter.name, "input": TEXTS[:2]}).json()
    with load_embedder(adapter) as embedder:
        assert_close([row["embedding"] for row in answer["data"]], embedder.encode(TEXTS[:2], kind=None).dense)
