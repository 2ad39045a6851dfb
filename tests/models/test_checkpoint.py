"""Reading checkpoints: every layout works, and errors about damage name the file."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINTS, M3, RERANKER, assert_close
from safetensors.torch import load_file, save_file

from bge_integrations import load_embedder, load_reranker
from bge_integrations.catalog import CHECKPOINTS as CHECKPOINTS_OF_CATALOGUE
from bge_integrations.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    InstructionWarning,
    InvalidInputError,
    NotSupportedError,
    UnknownModelError,
    WrongKindError,
)
from bge_integrations.models.checkpoint import is_complete


@pytest.fixture
def folder(tmp_path):
    """A writable copy of the tiny bge-m3."""
    return shutil.copytree(M3, tmp_path / "bge-m3")


def tensors(folder):
    return load_file(folder / "model.safetensors")


def vector(folder):
    with load_embedder(folder) as embedder:
        return embedder.encode(["what is a panda?"]).dense


@pytest.fixture(scope="module")
def reference():
    return vector(M3)


@pytest.mark.parametrize("sharded", [False, True])
def test_gamma_and_beta_are_weight_and_bias(folder, reference, sharded):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, tensor in tensors(folder).items():
        for new, former in old.items():
            name = name.replace(new, former)
        state[name] = tensor
    assert any(name.endswith("gamma") for name in state)
    save_file(state, folder / "model.safetensors")
    if sharded:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        index = {"weight_map": dict.fromkeys(state, "part.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_close(vector(folder), reference)


def test_a_bin_file_is_read(folder, reference):
    torch.save(tensors(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_close(vector(folder), reference)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read(folder, reference, kind):
    state = tensors(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        stem = "model" if kind == "safetensors" else "pytorch_model"
        file = f"{stem}-0000{number}-of-00002.{kind}"
        shard = {name: state[name] for name in part}
        save_file(shard, folder / file) if kind == "safetensors" else torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert is_complete(folder)
    assert_close(vector(folder), reference)
    (folder / file).unlink()
    assert not is_complete(folder)
    with pytest.raises(CheckpointError, match=file):
        load_embedder(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_computed_in_float32(folder, reference, dtype):
    save_file({name: tensor.to(dtype) for name, tensor in tensors(folder).items()}, folder / "model.safetensors")
    assert_close(vector(folder), reference, tolerance=0.1)


def test_weights_with_a_prefix_are_read(folder, reference):
    prefixed = {f"roberta.{name}": tensor for name, tensor in tensors(folder).items()}
    save_file(prefixed, folder / "model.safetensors")
    assert_close(vector(folder), reference)


def test_a_missing_tensor_is_named(folder):
    state = tensors(folder)
    del state["encoder.layer.1.attention.self.key.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.attention\.self\.key\.weight"):
        load_embedder(folder)


def test_a_mismatching_tensor_is_named_with_both_shapes(folder):
    state = tensors(folder)
    state["encoder.layer.0.output.dense.bias"] = torch.zeros(7)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*output\.dense\.bias.*\(7,\).*\(64,\)"):
        load_embedder(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "sparse_linear.pt", "colbert_linear.pt", "tokenizer.json"])
def test_a_file_cut_short_is_named(folder, file):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=file):
        load_embedder(folder)


@pytest.mark.parametrize("file", ["sparse_linear.pt", "colbert_linear.pt", "config.json"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        load_embedder(folder)


def test_missing_weights_list_what_is_needed(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*pytorch_model\.bin"):
        load_embedder(folder)


def test_a_head_of_another_width_is_refused(folder):
    torch.save({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=r"sparse_linear\.pt.*weight.*\(1, 32\)"):
        load_embedder(folder)


def test_a_folder_without_any_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*vocab\.txt"):
        load_embedder(folder)


def test_a_changed_config_is_noticed_while_a_copy_is_in_memory(folder):
    with load_embedder(folder) as old:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
        with load_embedder(folder) as new:
            assert abs(new.encode(["a text"]).dense - old.encode(["a text"]).dense).max() > 1e-4


def test_special_tokens_have_no_lexical_weight_without_a_tokenizer_config_either(folder, m3):
    (folder / "tokenizer_config.json").unlink()
    with load_embedder(folder) as embedder:
        found = embedder.encode(["hello world"], sparse=True).sparse.to_dicts()
    assert found == m3.encode(["hello world"], sparse=True).sparse.to_dicts()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"hidden_size": None},
        {"num_attention_heads": 5},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"layer_norm_eps": []},
        {"pad_token_id": -7},
        {"pad_token_id": 10**6},
        {"max_position_embeddings": None},
        {"architectures": 5, "vocab_size": "many"},
    ],
)
def test_an_inconsistent_config_is_a_checkpoint_error(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_embedder(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", "5"),
        ("modules.json", '["x"]'),
        ("modules.json", "[" * 100_000),
        ("config_sentence_transformers.json", '{"prompts": ["q"]}'),
        ("config_sentence_transformers.json", '{"prompts": {"query": 5}}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": 5}}'),
    ],
)
def test_json_of_the_wrong_shape_is_a_checkpoint_error(folder, file, content):
    (folder / file).write_text(content)
    if file.startswith("model"):
        (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=file):
        load_embedder(folder)


class Exploit:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("file", ["sparse_linear.pt", "pytorch_model.bin"])
def test_code_in_a_pickle_is_refused(folder, file, capsys):
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(CheckpointError, match=file):
        load_embedder(folder)
    assert "must never run" not in capsys.readouterr().out


def test_a_reranker_with_several_logits_is_refused(tmp_path):
    folder = shutil.copytree(RERANKER, tmp_path / "bge-reranker-v2-m3")
    state = tensors(folder)
    state["classifier.out_proj.weight"] = torch.zeros(3, 64)
    state["classifier.out_proj.bias"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"out_proj\.weight.*\(3, 64\).*\(1, 64\)"):
        load_reranker(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    shutil.copy(CHECKPOINTS / "bge-base-en-v1.5" / "tokenizer.json", folder)
    with pytest.raises(CheckpointError, match=r"\b270\b.*\b161\b"):
        load_embedder(folder)


def test_nothing_stays_in_memory_after_a_failed_load(folder):
    from bge_integrations.core.residency import models_in_memory

    before = models_in_memory()
    (folder / "colbert_linear.pt").unlink()
    with pytest.raises(CheckpointError):
        load_embedder(folder)
    assert models_in_memory() == before


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/nowhere-at-all"])
def test_a_missing_folder(name):
    with pytest.raises(CheckpointNotFoundError, match=re.escape(Path(name).name)):
        load_embedder(name)


@pytest.mark.parametrize("name", ["bge-m4", "BGE_M3_", "pockt", "panda"])
def test_an_unknown_name_gets_similar_names_only(name):
    with pytest.raises(UnknownModelError) as caught:
        load_embedder(name)
    message = str(caught.value)
    assert sum(row.short_name in message for row in CHECKPOINTS_OF_CATALOGUE) <= 3
    assert ("pocket" in message) == (name == "pockt")


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(UnknownModelError, match=r"bge-base-env1\.5.*bge-base-en-v1\.5"):
        load_embedder("bge-base-env1.5")


ENGLISH = "Represent this sentence for searching relevant passages: "


@pytest.fixture
def base_copy(tmp_path):
    return shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "hub" / "bge-base-en-v1___5")


def links_of(folder, base):
    """Return paths that lead to the model in `folder`, none of which contains its name."""
    (base / "current").symlink_to(folder)
    (base / "production").symlink_to("current")
    (base / "models").symlink_to(folder.parent)
    renamed = folder.rename(base / "4f1c")
    folder.symlink_to(renamed)  # the name is that of a link in the middle
    return [base / "current", base / "production", base / "models" / folder.name]


def test_a_link_leads_to_a_published_model(base_copy, tmp_path, recwarn):
    for path in links_of(base_copy, tmp_path):
        with load_embedder(path) as embedder:
            assert (embedder.name, embedder.query_instruction) == ("BAAI/bge-base-en-v1.5", ENGLISH)
    assert not recwarn


def test_linked_weights_lead_to_a_published_model(base_copy, tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    for file in base_copy.iterdir():
        (folder / file.name).symlink_to(file)
    with load_embedder(folder) as embedder:
        assert embedder.query_instruction == ENGLISH


@pytest.mark.parametrize("model", [".", "./", "../bge-base-en-v1___5", "x/.."])
def test_the_working_directory_is_a_published_model(base_copy, monkeypatch, model):
    (base_copy / "x").mkdir()
    monkeypatch.chdir(base_copy)
    with load_embedder(model) as embedder:
        assert embedder.query_instruction == ENGLISH


def test_a_working_directory_reached_by_a_link(tmp_path, monkeypatch):
    shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "4f1c")
    (tmp_path / "bge-base-en-v1.5").symlink_to(tmp_path / "4f1c")
    monkeypatch.chdir(tmp_path / "4f1c")
    monkeypatch.setenv("PWD", str(tmp_path / "bge-base-en-v1.5"))
    with load_embedder(".") as embedder:
        assert embedder.query_instruction == ENGLISH


def test_a_link_with_a_known_name_keeps_it(tmp_path):
    shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "bge-large-zh")
    (tmp_path / "bge-base-en-v1.5").symlink_to(tmp_path / "bge-large-zh")
    with load_embedder(tmp_path / "bge-base-en-v1.5") as embedder:
        assert embedder.name == "BAAI/bge-base-en-v1.5"


def test_a_linked_reranker_is_not_an_embedder(tmp_path):
    (tmp_path / "current").symlink_to(RERANKER)
    with load_reranker(tmp_path / "current") as reranker:
        assert reranker.name == "BAAI/bge-reranker-v2-m3"
    with pytest.raises(WrongKindError):
        load_embedder(tmp_path / "current")


def load_own(folder, **settings):
    with load_embedder(folder, family="encoder", pooling="cls", **settings) as embedder:
        return embedder.query_instruction


def test_a_model_without_an_instruction_is_reported_once(tmp_path):
    own = shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "own")
    with pytest.warns(InstructionWarning, match="nothing says which instruction") as caught:
        assert load_own(own) == ""
    assert "query_instruction=" in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_own(own) == ""
        (tmp_path / "link").symlink_to(own)
        assert load_own(tmp_path / "link") == ""


def test_the_report_names_the_instruction_of_the_base_model(tmp_path):
    own = shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "own")
    config = json.loads((own / "config.json").read_text("utf-8"))
    (own / "config.json").write_text(json.dumps({**config, "_name_or_path": "BAAI/bge-small-zh-v1.5"}))
    with pytest.warns(InstructionWarning, match="为这个句子"):
        load_own(own)


@pytest.mark.parametrize("prompts", [{"query": "Q: "}, {"query": ""}, None])
def test_a_given_instruction_is_not_reported(tmp_path, prompts, recwarn):
    own = shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "own")
    if prompts is None:
        assert load_own(own, query_instruction="") == ""
    else:
        (own / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
        assert load_own(own) == prompts["query"]
    shutil.copytree(M3, tmp_path / "other")
    load_embedder(tmp_path / "other").close()  # the m3 family has no instructions
    assert not [w for w in recwarn if w.category is InstructionWarning]


POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "sparse_linear.pt", "colbert_linear.pt", "tokenizer.json", "config.json"]
)
def test_a_git_lfs_pointer_is_named(folder, file):
    (folder / file).write_text(POINTER)
    with pytest.raises(CheckpointError, match=rf"{file} is a Git LFS pointer.*git lfs pull"):
        load_embedder(folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [("bge-reranker-v2-m3", "model.safetensors"), ("bge-reranker-v2.5-gemma2-lightweight", "tokenizer.json")],
)
def test_a_git_lfs_pointer_of_a_reranker(tmp_path, name, file):
    shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    (tmp_path / name / file).write_text(POINTER)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_reranker(tmp_path / name)


def test_other_pointers_to_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text(POINTER)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_embedder(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin").symlink_to("../../.git/annex/objects/xX/SHA256E-s1--0.bin")
    (folder / "model.safetensors").symlink_to("../../.git/annex/objects/xX/SHA256E-s1--0.safetensors")
    with pytest.raises(CheckpointError, match="git annex get"):
        load_embedder(folder)


def test_a_whole_model_with_an_adapter_beside_it_is_loaded(folder, reference):
    (folder / "adapter_config.json").write_text("{}")
    assert_close(vector(folder), reference)


def offline(code, tmp_path, **environment):
    """Run code in a process whose hub is a closed port and whose cache is empty."""
    variables = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": "", **environment}
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)


def test_a_cached_m3_without_its_heads_is_not_complete(tmp_path):
    """Other libraries cache it without the heads."""
    cached = tmp_path / "hub" / "models--BAAI--bge-m3"
    shutil.copytree(M3, cached / "snapshots" / "abc", ignore=shutil.ignore_patterns("*.pt"))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    done = offline("from bge_integrations import load_embedder; load_embedder('BAAI/bge-m3')", tmp_path)
    assert "only a part of it is in the cache" in done.stderr


@pytest.mark.parametrize(
    ("load", "name", "error"),
    [
        ("embedder", "BAAI/bge-visualized", "UnknownModelError"),
        ("embedder", "BAAI/bge-reranker-base", "WrongKindError"),
        ("reranker", "BAAI/bge-m3", "WrongKindError"),
        ("embedder", "BAAI/bge m3", "UnknownModelError"),
        ("embedder", "BAAI/bge-m33", "Did you mean BAAI/bge-m3"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_any_download(tmp_path, load, name, error):
    done = offline(f"from bge_integrations import load_{load}; load_{load}({name!r})", tmp_path)
    assert error in done.stderr


@pytest.fixture
def hub(tmp_path):
    """The address of a hub with models of unsupported architectures, and the list of files that were asked for."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            if "/resolve/" in self.path:
                asked.append(self.path.rpartition("/")[2])
                body = json.dumps({"model_type": "mpnet"}).encode()
            else:
                names = ["config.json", "modules.json", "model.safetensors", "tokenizer.json"]
                siblings = [{"rfilename": name} for name in names]
                body = json.dumps({"id": "me/mpnet", "sha": "0" * 40, "siblings": siblings}).encode()
            self.send_response(200)
            for name, value in (
                ("ETag", '"1"'),
                ("X-Repo-Commit", "0" * 40),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
            ):
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.parametrize("load", ["embedder", "reranker"])
def test_another_architecture_is_refused_before_its_weights_are_downloaded(tmp_path, hub, load):
    address, asked = hub
    code = f"from bge_integrations import load_{load}; load_{load}('me/mpnet')"
    done = offline(code, tmp_path, HF_ENDPOINT=address)
    assert "NotSupportedError: me/mpnet is a model of type 'mpnet'" in done.stderr
    assert set(asked) == {"config.json"}
    again = offline(code, tmp_path)  # the small file is in the cache now
    assert "NotSupportedError: me/mpnet is a model of type 'mpnet'" in again.stderr


@pytest.mark.parametrize("load", [load_embedder, load_reranker])
@pytest.mark.parametrize("model_type", ["mpnet", "modernbert", "distilbert", "nomic_bert", "qwen4", "llama", None])
@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_another_architecture_is_the_first_thing_said(tmp_path, load, model_type, kind):
    """Whatever else is missing: weights, tokenizer, sentence-transformers files."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [kind]}))
    (own / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]))
    with pytest.raises(NotSupportedError) as caught:
        load(own)
    assert repr(model_type) in caught.value.finding
    assert all(name in caught.value.advice for name in ("bert", "xlm-roberta", "qwen2"))


def test_a_supported_architecture_of_the_wrong_family(tmp_path):
    with pytest.raises(NotSupportedError):
        load_embedder(shutil.copytree(CHECKPOINTS / "bge-en-icl", tmp_path / "own"), family="encoder", pooling="cls")


@pytest.mark.parametrize("model", [None, 5, "", b"x"])
def test_an_invalid_model_name(model):
    with pytest.raises(InvalidInputError, match=re.escape(f"model={model!r}")):
        load_embedder(model)


def test_without_network_the_error_says_what_to_do(tmp_path):
    code = "from bge_integrations import load_embedder; load_embedder('BAAI/bge-m3')"
    done = offline(code, tmp_path)
    assert done.returncode != 0
    assert "CheckpointNotFoundError" in done.stderr
    assert "hf download BAAI/bge-m3" in done.stderr
    assert "the model 'pocket'" in done.stderr


def test_local_files_only_never_asks_the_hub(tmp_path):
    code = "from bge_integrations import load_embedder; load_embedder('bge-m3', local_files_only=True)"
    done = offline(code, tmp_path)
    assert "local_files_only=True forbids the download" in done.stderr


def test_a_cached_checkpoint_needs_no_network(tmp_path):
    cached = tmp_path / "hub" / "models--BAAI--bge-base-en-v1.5"
    shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    code = "from bge_integrations import load_embedder; print(load_embedder('BAAI/bge-base-en-v1.5').query_instruction)"
    done = offline(code, tmp_path)
    assert "Represent this sentence" in done.stdout, done.stderr
    (cached / "snapshots" / "abc" / "model.safetensors").unlink()
    assert "only a part of it is in the cache" in offline(code, tmp_path).stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the mappings are read from /proc")
@pytest.mark.parametrize("name", ["bge-m3", "bge-multilingual-gemma2", "bge-reranker-v2-m3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_keeps_no_mapping_of_its_files(tmp_path, name, dtype):
    """A mapping would reserve the size of the file, and writing to the file would change the model."""
    shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    load = load_reranker if "reranker" in name else load_embedder
    with load(tmp_path / name, dtype=dtype):
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
