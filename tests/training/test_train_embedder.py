"""`train_embedder` from rows to a folder that others load."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHECKPOINTS, ORACLE, assert_close
from filelock import FileLock
from safetensors.torch import load_file

from bge_integrations import load_embedder
from bge_integrations.errors import (
    CheckpointError,
    InvalidInputError,
    NonFiniteError,
    NotSupportedError,
    TruncationWarning,
    UnknownArgumentError,
)
from bge_integrations.training import TrainingRow, train_embedder, write_rows
from bge_integrations.training.embedder_model import EmbedderModel

ENCODER = "bge-base-en-v1.5"
DECODER = "bge-multilingual-gemma2"
TEXTS = ["What is BGE M3?", "the giant panda is a bear", "hi"]


def settings_of(embedder_runs, run):
    """The settings of one of the reference's runs, by our names."""
    given = run["settings"]
    return {
        "epochs": given["num_train_epochs"],
        "batch_size": given["per_device_train_batch_size"],
        "learning_rate": given["learning_rate"],
        "weight_decay": given["weight_decay"],
        "warmup": 0,
        "group_size": 4,
        "query_max_length": given["query_max_len"],
        "passage_max_length": given["passage_max_len"],
        "seed": 42,
        "device": "cpu",
    }


TRUNCATES = pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")


@TRUNCATES
@pytest.mark.parametrize(
    ("name", "checkpoint", "more"),
    [
        ("embedder", ENCODER, {"distillation": None}),
        ("embedder_kl_div", ENCODER, {"distillation": "kl_div"}),
        ("m3_unified_self_distill_start_1", "bge-m3", {"self_distillation_start": 2}),
    ],
)
def test_a_run_has_the_references_losses(
    embedder_runs, training_rows, without_dropout, tmp_path, name, checkpoint, more
):
    run = embedder_runs["whole_runs"][name]
    trained = train_embedder(
        training_rows, without_dropout(checkpoint), tmp_path / "out", **settings_of(embedder_runs, run), **more
    )
    assert_close(trained.losses[0], run["logged_loss"][0])
    assert_close(trained.losses, run["logged_loss"], 1e-4)
    tensors = load_file(trained.folder / "model.safetensors")
    for tensor, after in run["after"].items():
        if tensor in tensors:
            assert_close(tensors[tensor].abs().sum(), after["abs_sum"], 1e-4)
            assert_close(tensors[tensor].flatten()[:4], after["first"], 1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}  # no checkpoints are left


@pytest.fixture
def many(training_rows):
    """Twelve rows: three batches of `SHORT`."""
    return [TrainingRow(f"{row.query} {i}", row.pos, row.neg) for i in range(3) for row in training_rows]


SHORT = {"batch_size": 4, "group_size": 3, "learning_rate": 1e-3, "device": "cpu", "query_max_length": 64}


def test_the_same_seed_gives_the_same_weights(many, tmp_path):
    one, two, other = (
        train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / name, **SHORT, max_steps=2, seed=seed)
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert one.losses == two.losses
    assert other.losses != one.losses
    weights = [load_file(trained.folder / "model.safetensors") for trained in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture
def interrupted_at(monkeypatch):
    """Return a function that sends Ctrl-C to the training during this batch."""

    def interrupt(batch):
        batches, loss = 0, EmbedderModel.forward

        def forward(*args, **kwargs):
            nonlocal batches
            batches += 1
            if batches == batch:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(*args, **kwargs)

        monkeypatch.setattr(EmbedderModel, "forward", forward)

    return interrupt


@pytest.mark.parametrize(
    ("checkpoint", "batch", "more"),
    [
        ("bge-m3", 2, {"epochs": 2, "self_distillation_start": 4, "accumulation_steps": 2}),
        (DECODER, 3, {"epochs": 1.5, "lora_rank": 4}),  # at the end of an epoch
    ],
)
def test_an_interrupted_training_continues_to_the_same_losses(many, tmp_path, interrupted_at, checkpoint, batch, more):
    settings = SHORT | more  # the checkpoints have dropout
    model, output = CHECKPOINTS / checkpoint, tmp_path / "interrupted"
    whole = train_embedder(many, model, tmp_path / "whole", **settings)
    interrupted_at(batch)
    with pytest.raises(KeyboardInterrupt):
        train_embedder(many, model, output, **settings)
    assert not output.exists()
    assert list((tmp_path / ".interrupted.training").glob("checkpoint-*"))
    with pytest.raises(InvalidInputError) as raised:
        train_embedder(many, model, output, **settings | {"temperature": 1.0})
    assert raised.value.argument == "resume"
    continued = train_embedder(many, model, output, **settings)
    assert continued.losses == whole.losses
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "interrupted"}


def test_two_trainings_to_one_folder_are_refused(many, tmp_path):
    (tmp_path / ".out.training").mkdir()
    with FileLock(tmp_path / ".out.training" / "lock"), pytest.raises(InvalidInputError) as raised:
        train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "out", **SHORT)
    assert raised.value.argument == "output"


def test_a_training_whose_result_could_not_be_saved_is_not_lost(many, tmp_path, monkeypatch):
    settings = SHORT | {"epochs": 1.5}
    whole = train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "whole", **settings)

    def full(*args):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("bge_integrations.training.embedder.copy_tokenizer", full)
        with pytest.raises(OSError, match="no space"):
            train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    again = train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "out", **settings)
    assert again.losses == whole.losses
    weights = [load_file(trained.folder / "model.safetensors") for trained in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_folder_loads_in_sentence_transformers_and_transformers(many, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    folder = train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "mine", **SHORT).folder
    with load_embedder(str(folder), device="cpu") as embedder:
        queries = embedder.encode(TEXTS, kind="query").dense
        passages = embedder.encode(TEXTS, kind="passage").dense
        assert embedder.pooling == "cls"
        assert embedder.query_instruction.startswith("Represent this sentence")
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert_close(theirs.encode_query(TEXTS), queries)
    assert_close(theirs.encode_document(TEXTS), passages)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state[:, 0]
    assert_close(torch.nn.functional.normalize(states, dim=-1), passages)


def test_others_can_read_the_weights_and_damaged_ones_are_refused(many, tmp_path):
    folder = train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "mine", **SHORT, max_steps=1).folder
    weights = folder / "model.safetensors"
    assert weights.stat().st_mode == (folder / "config.json").stat().st_mode
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        train_embedder(many, folder, tmp_path / "again", **SHORT)
    assert not (tmp_path / "again").exists()


def test_m3s_heads_are_saved(many, tmp_path):
    settings = SHORT | {"max_steps": 1, "warmup": 0}
    folder = train_embedder(many, CHECKPOINTS / "bge-m3-c16", tmp_path / "mine", family="m3", **settings).folder
    for name, shape in (("sparse_linear.pt", (1, 64)), ("colbert_linear.pt", (16, 64))):
        new = torch.load(folder / name, weights_only=True)
        old = torch.load(CHECKPOINTS / "bge-m3-c16" / name, weights_only=True)
        assert new["weight"].shape == shape
        assert not torch.equal(new["weight"], old["weight"])
    with load_embedder(str(folder), device="cpu") as embedder:
        out = embedder.encode(TEXTS, dense=True, sparse=True, multi_vector=True)
    assert out.dense.shape == (3, 64)
    assert out.multi_vector[0].shape[1] == 16


def test_a_fixed_encoder_keeps_its_weights(many, tmp_path):
    folder = train_embedder(many, CHECKPOINTS / "bge-m3", tmp_path / "mine", fix_encoder=True, **SHORT).folder
    before = load_file(CHECKPOINTS / "bge-m3" / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_new_heads_on_an_encoder(many, tmp_path):
    model = tmp_path / "xlmr"
    shutil.copytree(CHECKPOINTS / "bge-m3", model, ignore=lambda folder, files: [f for f in files if f.endswith(".pt")])
    folder = train_embedder(
        many, model, tmp_path / "mine", family="m3", multi_vector_dim=8, max_steps=1, **SHORT
    ).folder
    with load_embedder(str(folder), device="cpu") as embedder:
        assert embedder.multi_vector_dimension == 8


def test_a_decoders_adapter_loads_over_its_base_and_equals_the_merged_model(many, tmp_path):
    from sentence_transformers import SentenceTransformer

    settings = SHORT | {"lora_rank": 4}
    adapter, merged = (
        train_embedder(many, CHECKPOINTS / DECODER, tmp_path / name, **settings, merge_lora=merge).folder
        for name, merge in (("adapter", False), ("merged", True))
    )
    assert not (adapter / "model.safetensors").exists()
    vectors = []
    for folder in (adapter, merged):
        with load_embedder(str(folder), device="cpu") as embedder:
            assert embedder.query_instruction.startswith("<instruct>")
            vectors.append(embedder.encode(TEXTS, kind="query").dense)
    assert_close(vectors[0], vectors[1])
    theirs = SentenceTransformer(str(merged), device="cpu", local_files_only=True)
    assert_close(theirs.encode_query(TEXTS), vectors[1])
    further = train_embedder(many, adapter, tmp_path / "further", **settings)
    with load_embedder(str(further.folder), device="cpu") as embedder:
        assert not np.allclose(embedder.encode(TEXTS, kind="query").dense, vectors[0], atol=1e-3)


#: Trains on two processes; then writes the losses, and of other losses the mean and the gradients' norms.
DISTRIBUTED = """
import json, sys
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel
from bge_integrations.training import train_embedder
from bge_integrations.training.backbone import load_backbone
from bge_integrations.training.embedder_model import EmbedderModel, LossSettings
from bge_integrations.training.embedder_settings import EmbedderSettings

data, model, output, oracle = sys.argv[1:5]
trained = train_embedder(data, model, output, **eval(sys.argv[5]))
found = {"losses": trained.losses}
oracle = json.load(open(oracle))
rank = torch.distributed.get_rank()
texts = {
    f"{kind}_{name}": torch.tensor(oracle["embedder"][part][name][rank * count : (rank + 1) * count])
    for kind, part, count in (("query", "queries", 2), ("passage", "passages", 8))
    for name in ("input_ids", "attention_mask")
}
scores = torch.tensor([group["teacher_scores"] for group in oracle["groups"]])[rank * 2 : rank * 2 + 2]
for case, distillation in (("plain", None), ("kl_div", "kl_div"), ("m3_kd_loss", "m3_kd_loss")):
    backbone = load_backbone(AutoModel, Path(model), EmbedderSettings(), lora=False, precision="float32")
    settings = LossSettings(cross_device=True, distillation=distillation or "kl_div")
    module = DistributedDataParallel(EmbedderModel(backbone, "cls", settings).train())
    loss = module(**texts, teacher_scores=scores if distillation else None)["loss"]
    loss.backward()
    mean = loss.detach().clone()
    torch.distributed.all_reduce(mean)
    gradients = {name: each.grad.norm().item() for name, each in backbone.named_parameters() if each.requires_grad}
    found[case] = mean.item() / 2, gradients
if rank == 0:
    json.dump(found, open(output + "/found.json", "w"))
"""


@TRUNCATES
def test_two_processes_train_as_one(embedder_runs, training_rows, without_dropout, tmp_path):
    """With the negatives of both, loss and gradient are those of one process with all four queries."""
    data, output = tmp_path / "rows.jsonl", tmp_path / "two"
    write_rows(training_rows, data)
    settings = settings_of(embedder_runs, embedder_runs["whole_runs"]["embedder"])
    settings |= {"batch_size": 2, "cross_device": True}
    (tmp_path / "script.py").write_text(DISTRIBUTED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "script.py"), str(data), str(without_dropout(ENCODER)), str(output)]
    command += [str(ORACLE / "training" / "embedder.json"), repr(settings)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((output / "found.json").read_text())
    assert_close(found["losses"], embedder_runs["whole_runs"]["embedder"]["logged_loss"], 1e-4)
    for case, expected in embedder_runs["cross_device"]["cases"].items():
        loss, gradients = found[case]
        one_process = expected["one_process_with_all_four"]
        assert_close(loss, one_process["loss"])
        for name, norm in one_process["grad_norm"].items():
            assert_close(gradients[name], norm, 1e-4)


def test_every_mistake_is_found_before_anything_is_written(many, tmp_path):
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "notes.txt").touch()
    cases = [
        ({"output": existing}, InvalidInputError, "output"),
        ({"temprature": 1}, UnknownArgumentError, "temprature"),
        ({"temperature": 0}, InvalidInputError, "temperature"),
        ({"batch_size": 100}, InvalidInputError, "batch_size"),
        ({"distillation": "kl_div"}, InvalidInputError, "distillation"),
        ({"unified": True}, InvalidInputError, "unified"),
        ({"fix_encoder": True}, InvalidInputError, "fix_encoder"),
        ({"matryoshka_dims": (128,)}, InvalidInputError, "matryoshka_dims"),
        ({"multi_vector_dim": 8}, InvalidInputError, "multi_vector_dim"),
        ({"merge_lora": True}, InvalidInputError, "merge_lora"),
        ({"precision": "float16"}, InvalidInputError, "precision"),
        ({"device": "tpu"}, InvalidInputError, "device"),
        ({"in_batch_negatives": False, "cross_device": True}, InvalidInputError, "cross_device"),
        ({"model": CHECKPOINTS / DECODER, "family": "bidirectional_decoder"}, NotSupportedError, None),
    ]
    for given, error, argument in cases:
        arguments = {"model": CHECKPOINTS / ENCODER, "output": tmp_path / "out", **SHORT, **given}
        with pytest.raises(error) as raised:
            train_embedder(many, **arguments)
        assert raised.value.argument == argument, given
        assert [path.name for path in tmp_path.iterdir()] == ["existing"]


def test_a_loss_that_is_not_a_number_ends_the_training(many, tmp_path):
    with pytest.raises(NonFiniteError):
        train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "out", **SHORT | {"learning_rate": 1e30, "epochs": 5})
    assert not (tmp_path / "out").exists()


def test_truncation_is_reported(many, tmp_path):
    with pytest.warns(TruncationWarning) as caught:
        train_embedder(
            many, CHECKPOINTS / ENCODER, tmp_path / "out", **SHORT | {"passage_max_length": 20, "max_steps": 1}
        )
    assert [warning.message.limit for warning in caught] == [20]


def test_a_rows_own_prompt_replaces_the_instruction(training_rows):
    from bge_integrations.training.embedder_data import TextFormat

    text_format = TextFormat("<instruct>A\n<query>", "", "<instruct>{}\n<query>{}", "", 32, 32)
    assert text_format.instruction_of(training_rows[0]) == "<instruct>A\n<query>"
    prompted = TrainingRow("q", ("p",), prompt="B")
    assert text_format.instruction_of(prompted) == "<instruct>B\n<query>"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_lowers_the_loss_and_fits_into_pieces(many, tmp_path, precision):
    settings = SHORT | {"epochs": 5, "precision": precision, "sub_batch_size": 3, "gradient_checkpointing": True}
    trained = train_embedder(many, CHECKPOINTS / ENCODER, tmp_path / "out", **settings, length_grouped=True)
    assert np.mean(trained.losses[-5:]) < np.mean(trained.losses[:5])
    assert json.loads((Path(trained.folder) / "config.json").read_text())["model_type"] == "bert"
