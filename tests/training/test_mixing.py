"""Mixing models: the reference's tensors, what is refused, and that folders are written whole or not at all."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, CHECKPOINTS, M3, ORACLE, assert_close
from safetensors.torch import load_file, save_file

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import CheckpointError, InvalidInputError, NotSupportedError, TrainingDataError
from bge_integrations.training import TrainingRow, mix, weights_from
from bge_integrations.training import mixing as mixing_module

COCKTAIL = json.loads((ORACLE / "training" / "mine_teach_mix.json").read_text("utf-8"))["cocktail"]


def variant(checkpoint, folder, k=1, change=None, heads=False):
    """Copy a checkpoint with the oracle's change number k of its weights."""
    shutil.copytree(CHECKPOINTS / checkpoint, folder)
    for file in folder.iterdir():
        file.chmod(0o644)

    def changed(tensor):
        entries = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        return (tensor.double() + 0.02 * k * torch.cos(0.37 * entries + k)).float()

    tensors = {name: changed(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(change(tensors) if change else tensors, folder / "model.safetensors", {"format": "pt"})
    for head in folder.glob("*_linear.pt") if heads else ():
        torch.save({name: changed(tensor) for name, tensor in torch.load(head).items()}, head)
    return folder


def set_config(folder, **settings):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **settings}), "utf-8")
    return folder


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """The oracle's three models of each kind, in folders with the checkpoint's name."""
    root = tmp_path_factory.mktemp("variants")
    return {
        kind: [variant(c["checkpoint"], root / kind / str(k) / c["checkpoint"], k) for k in range(3)]
        for kind, c in COCKTAIL.items()
    }


def weights_of(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("kind", COCKTAIL)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 100_000])
def test_mixes_are_the_reference_s(variants, kind, max_shard_bytes, tmp_path):
    for number, case in enumerate(COCKTAIL[kind]["mixes"]):
        if "error" in case:
            continue
        models = variants[kind][: len(case["weights"])]
        mixed = mix(models, tmp_path / str(number), weights=case["weights"], max_shard_bytes=max_shard_bytes)
        found = weights_of(mixed.folder)
        assert (tmp_path / str(number) / "model.safetensors.index.json").exists() == (max_shard_bytes < 10**9)
        if kind == "decoder":  # the output matrix is tied, and not stored
            found["lm_head.weight"] = found["model.embed_tokens.weight"]
        assert len(found) == case["all"]["count"]
        assert_close(sum(float(tensor.double().abs().sum()) for tensor in found.values()), case["all"]["abs_sum"])
        for name, expected in case["tensors"].items():
            assert hashlib.sha256(found[name].numpy().tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_weights_from_examples_are_the_reference_s(variants, kind):
    for case in COCKTAIL[kind]["by_data"]:
        examples = COCKTAIL[kind]["example_data"]
        if kind == "encoder":
            examples = [TrainingRow(each["query"], tuple(each["pos"]), tuple(each["neg"])) for each in examples]
        found = weights_from(
            variants[kind],
            examples,
            temperature=case["temperature"],
            batch_size=case["batch_size"],
            max_length=case["max_input_length"],
            query_instruction="",
        )
        assert_close(found.losses, case["losses"])
        assert_close(found.weights, case["weights"], 2e-5)


def test_examples_can_be_files_and_models_rerankers(variants, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(each) + "\n" for each in COCKTAIL["decoder"]["example_data"]), "utf-8")
    case = COCKTAIL["decoder"]["by_data"][0]
    found = weights_from(variants["decoder"][:1], str(texts), max_length=case["max_input_length"])
    assert_close(found.losses, case["losses"][:1])
    rows = tmp_path / "rows.jsonl"
    row = {"query": "a panda", "pos": ["the panda"], "neg": ["a bear", "hi"]}
    rows.write_text(json.dumps(row) + "\n")
    with load_reranker(variants["reranker"][0]) as reranker:
        scores = reranker.score([("a panda", text) for text in ("the panda", "a bear", "hi")]).astype(np.float64)
    loss = np.log(np.exp(scores).sum()) - scores[0]
    assert_close(weights_from(variants["reranker"][:2], rows).losses[0], loss)
    rows.write_text('{"query": "a"}\n')
    with pytest.raises(TrainingDataError):
        weights_from(variants["encoder"], rows)
    with pytest.raises(InvalidInputError):
        weights_from(variants["decoder"], [{"input": "a"}])


def test_a_mixed_embedder_loads_with_pooling_and_instruction_of_the_first(variants, tmp_path):
    output = tmp_path / "mixed"
    first = shutil.copytree(variants["encoder"][0], tmp_path / Path(variants["encoder"][0]).name)
    (first / "fine_tuning.json").write_text("{}")
    mix([first, variants["encoder"][1]], output)
    assert not list(tmp_path.glob(".*"))
    assert not (output / "fine_tuning.json").exists()  # its figures are the first model's
    with load_embedder(output) as mixed, load_embedder(variants["encoder"][0]) as first:
        assert mixed.pooling == "cls"
        assert mixed.query_instruction == first.query_instruction != ""
        assert mixed.max_length == first.max_length
        ours = mixed.encode_dense(["What is BGE M3?"], kind="query")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(output), device="cpu").encode_query(["What is BGE M3?"])
    assert_close(theirs, ours)


def test_a_mixed_reranker_and_m3_load_and_m3_s_heads_are_mixed(variants, tmp_path):
    mix(variants["reranker"][:2], tmp_path / "reranker")
    with load_reranker(tmp_path / "reranker") as reranker:
        assert np.isfinite(reranker.score([("a", "b")])).all()
    other = variant("bge-m3", tmp_path / "other" / "bge-m3", heads=True)
    mixed = mix([M3, other], tmp_path / "m3", weights=[0.25, 0.75])
    for head in ("sparse_linear.pt", "colbert_linear.pt"):
        first, second, result = (torch.load(folder / head) for folder in (CHECKPOINTS / "bge-m3", other, mixed.folder))
        assert result.keys() == {"weight", "bias"}
        for name in result:
            assert result[name].shape == first[name].shape
            assert_close(result[name], 0.25 * first[name] + 0.75 * second[name])
    with load_embedder(tmp_path / "m3") as embedder:
        assert embedder.encode(["a panda"], sparse=True, multi_vector=True).sparse is not None


def test_only_chosen_layers_and_tensors_are_mixed(variants, tmp_path):
    first, second = (load_file(folder / "model.safetensors") for folder in variants["encoder"][:2])

    def changed(name, **choice):
        mixed = mix(variants["encoder"][:2], tmp_path / name, **choice)
        found = weights_of(mixed.folder)
        for tensor in found.values():
            assert tensor.dtype == torch.float32
        different = {tensor for tensor in found if not torch.equal(found[tensor], first[tensor])}
        assert mixed.mixed == len(different)
        assert mixed.mixed + mixed.kept == len(found)
        for tensor in different:
            assert_close(found[tensor], (first[tensor] + second[tensor]) / 2)
        return different

    assert changed("layer", layers=[1]) == {name for name in first if ".layer.1." in name}
    both = changed("both", layers=range(1, 2), tensors=["*.attention.*", "pooler.*"])
    assert both == {name for name in first if ".layer.1.attention." in name}
    assert changed("pooler", tensors=["pooler.*"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    for choice in ({"layers": [2]}, {"layers": []}, {"tensors": ["nothing"]}, {"layers": [0], "tensors": ["pooler.*"]}):
        with pytest.raises(InvalidInputError):
            mix(variants["encoder"][:2], tmp_path / "none", **choice)
    assert not (tmp_path / "none").exists()


def test_half_precision_and_integers(tmp_path):
    """Types are the wider of both; integers must be equal, and may be missing in one."""
    ids = torch.arange(4)
    halved = variant("bge-base-en-v1.5", tmp_path / "half", 1, lambda t: {n: v.bfloat16() for n, v in t.items()})
    set_config(halved, dtype="bfloat16")
    with_ids = variant("bge-base-en-v1.5", tmp_path / "ids", 2, lambda t: {**t, "embeddings.position_ids": ids})
    others = variant("bge-base-en-v1.5", tmp_path / "others", 2, lambda t: {**t, "embeddings.position_ids": ids + 1})
    mix([halved, halved], tmp_path / "bfloat16")
    found = weights_of(tmp_path / "bfloat16")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"
    original = load_file(halved / "model.safetensors")
    assert all(torch.equal(found[name], original[name]) for name in original)
    mixed = mix([halved, with_ids], tmp_path / "float32")
    assert {tensor.dtype for tensor in weights_of(mixed.folder).values()} == {torch.float32}
    assert json.loads((mixed.folder / "config.json").read_text())["dtype"] == "float32"
    mixed = mix([with_ids, halved], tmp_path / "kept")
    assert torch.equal(weights_of(mixed.folder)["embeddings.position_ids"], ids)
    with pytest.raises(InvalidInputError):
        mix([with_ids, others], tmp_path / "none")


def test_a_tensor_is_mixed_in_parts(variants, tmp_path, monkeypatch):
    whole = weights_of(mix(variants["encoder"][:2], tmp_path / "whole").folder)
    monkeypatch.setattr(mixing_module, "_PART", 1000)
    parts = weights_of(mix(variants["encoder"][:2], tmp_path / "parts").folder)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_backbone_s_prefix_does_not_matter(variants, tmp_path):
    prefixed = variant("bge-base-en-v1.5", tmp_path / "p", 1, lambda t: {f"bert.{n}": v for n, v in t.items()})
    plain = weights_of(mix(variants["encoder"][:2], tmp_path / "plain").folder)
    mixed = weights_of(mix([variants["encoder"][0], prefixed], tmp_path / "prefixed").folder)
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)


@pytest.mark.parametrize(
    "weights", [[0.9, 0.3], [0.5, 0.4], [1.0], [0.5, float("nan")], ["a", "b"], [1e300, -1e300, 1.0]]
)
def test_weights_must_fit(variants, weights, tmp_path):
    with pytest.raises(InvalidInputError) as error:
        mix(variants["encoder"][:2], tmp_path / "none", weights=weights)
    assert error.value.argument == "weights"
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_fit_are_refused_and_nothing_is_written(variants, tmp_path):
    base = variants["encoder"][0]

    def made(name, change=None, **config):
        return set_config(variant("bge-base-en-v1.5", tmp_path / "models" / name, 1, change), **config)

    wide = made("wide", lambda t: {**t, "pooler.dense.bias": torch.zeros(65)})
    bare = made("bare", lambda t: {name: v for name, v in t.items() if not name.startswith("pooler")})
    heads = made("heads", num_attention_heads=8)
    activation = made("activation", hidden_act="relu")
    words = made("words")
    tokenizer = (words / "tokenizer.json").read_text("utf-8")
    (words / "tokenizer.json").write_text(tokenizer.replace('"panda"', '"koala"'), "utf-8")
    assert tokenizer != (words / "tokenizer.json").read_text("utf-8")
    without_heads = shutil.copytree(M3, tmp_path / "models" / "without")
    for head in without_heads.glob("*_linear.pt"):
        head.unlink()
    pairs = [(base, other) for other in (wide, bare, heads, activation, words, M3, variants["reranker"][0])]
    for models in [*pairs, (bare, base), (M3, without_heads), (without_heads, M3)]:
        with pytest.raises(InvalidInputError) as error:
            mix(models, tmp_path / "none")
        assert error.value.argument == "models"
    for models in ([base], str(base), []):
        with pytest.raises(InvalidInputError):
            mix(models, tmp_path / "none")
    with pytest.raises(CheckpointError):
        mix([base, tmp_path / "models"], tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_damaged_weights_leave_nothing_behind(variants, tmp_path):
    base = variants["encoder"][0]
    broken = variant("bge-base-en-v1.5", tmp_path / "broken", 1, lambda t: {n: v * float("nan") for n, v in t.items()})
    with pytest.raises(CheckpointError):
        mix([base, broken], tmp_path / "none")
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text("{}")
    (lora / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(NotSupportedError):
        mix([base, lora], tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "lora"}


def test_an_existing_folder_is_kept_and_an_empty_one_used(variants, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInputError):
        mix(variants["encoder"][:2], tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    mix(variants["encoder"][:2], tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_ctrl_c_leaves_nothing_behind(variants, tmp_path, monkeypatch, ctrl_c):
    read = mixing_module.Source.read
    calls = []

    def interrupted(source, name):
        calls.append(name)
        if len(calls) == 200:  # while the weights are written
            os.kill(os.getpid(), signal.SIGINT)
        return read(source, name)

    monkeypatch.setattr(mixing_module.Source, "read", interrupted)
    monkeypatch.setattr(mixing_module, "_PART", 100)
    with pytest.raises(KeyboardInterrupt):
        mix([BASE, variants["encoder"][1]], tmp_path / "none")
    assert not list(tmp_path.iterdir())
