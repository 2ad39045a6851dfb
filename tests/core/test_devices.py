"""One model on several devices. "cpu" and "cpu:0" are two devices to this package: two copies, two queues."""

import shutil

import pytest
import torch
from conftest import BASE, assert_close

from bge_integrations import load_embedder
from bge_integrations.core.residency import ModelLane, resident_models
from bge_integrations.errors import CheckpointError, InvalidInputError

TEXTS = [f"text {i} " + "word " * (i % 50) for i in range(300)]


@pytest.fixture
def two_devices(monkeypatch):
    devices = [torch.device("cpu"), torch.device("cpu:0")]
    monkeypatch.setattr("bge_integrations.core.embedder.place", lambda device, dtype: (devices, torch.float32))


@pytest.fixture
def tokens(monkeypatch):
    """How many tokens each device was given, a number for each batch."""
    given = {"cpu": [], "cpu:0": []}
    run = ModelLane.run

    def noted(lane, sequences, between_layers):
        given[str(lane.resident.key.device)].append(sum(map(len, sequences)))
        return run(lane, sequences, between_layers)

    monkeypatch.setattr(ModelLane, "run", noted)
    return given


def test_a_long_call_is_dealt_out_evenly_and_gives_the_same_numbers(base, two_devices, tokens):
    with load_embedder(BASE) as embedder:
        assert embedder.device == "cpu, cpu:0"
        found = embedder.encode(TEXTS).dense
    shares = [sum(batches) for batches in tokens.values()]
    assert min(shares) > 0.9 * max(shares)
    assert_close(found, base.encode(TEXTS).dense)


def test_short_calls_take_turns(base, two_devices, tokens):
    with load_embedder(BASE) as embedder:
        found = [embedder.encode([text]).dense[0] for text in TEXTS[:6]]
    assert [len(batches) for batches in tokens.values()] == [3, 3]
    assert_close(found, base.encode(TEXTS[:6]).dense)


def test_all_copies_go_with_the_last_holder(tmp_path, two_devices):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    with load_embedder(folder) as embedder, load_embedder(folder):
        embedder.encode(TEXTS)
        assert sorted(str(key.device) for key in resident_models() if key.folder == folder.resolve()) == [
            "cpu",
            "cpu:0",
        ]
    assert all(key.folder != folder.resolve() for key in resident_models())


def test_a_copy_that_cannot_be_loaded_leaves_no_other_behind(tmp_path, two_devices, monkeypatch):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    from bge_integrations.core import residency

    load = residency.load_model

    def damaged_later(folder, family, device, *arguments):
        if str(device) == "cpu:0":
            (folder / "model.safetensors").write_bytes(b"damaged")
        return load(folder, family, device, *arguments)

    monkeypatch.setattr(residency, "load_model", damaged_later)
    with pytest.raises(CheckpointError):
        load_embedder(folder)
    assert all(key.folder != folder.resolve() for key in resident_models())


@pytest.mark.parametrize("devices", [["cpu", "cpu"], ["cpu", "cpu:0"], []])
def test_devices_that_are_none_or_not_cuda_are_refused(devices):
    with pytest.raises(InvalidInputError, match="device="):
        load_embedder(BASE, device=devices)
    with load_embedder(BASE, device=["cpu"]) as embedder:
        assert embedder.device == "cpu"
