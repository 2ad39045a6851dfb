"""One model on several devices. "cpu" and "cpu:0" are two devices to this package: two copies, two queues."""

import shutil

import pytest
from conftest import BASE, assert_close

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core.residency import models_in_memory
from bge_integrations.errors import CheckpointError, InvalidInputError


@pytest.mark.parametrize("device", ["mps", "mps:0", ["mps"]])
@pytest.mark.parametrize("load", [load_embedder, load_reranker])
def test_apples_gpus_are_refused_by_name(load, device):
    with pytest.raises(InvalidInputError) as caught:
        load("pocket", device=device)
    assert caught.value.argument == "device"
    assert "Apple" in caught.value.finding
    assert all(name in caught.value.advice for name in ("'cpu'", "macOS", "NVIDIA"))


TEXTS = [f"text {i} " + "word " * (i % 50) for i in range(300)]


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr("bge_integrations.core.loading.resolve_devices", lambda device: ["cpu", "cpu:0"])


def test_a_long_call_is_split_evenly_and_returns_the_same_vectors(base, two_devices, batches):
    with load_embedder(BASE) as embedder:
        assert embedder.device == "cpu, cpu:0"
        found = embedder.encode(TEXTS).dense
    shares = [sum(sum(batch.lengths) for batch in batches if batch.device == name) for name in ("cpu", "cpu:0")]
    assert min(shares) > 0.9 * max(shares)
    assert_close(found, base.encode(TEXTS).dense)


def test_short_calls_take_turns(base, two_devices, batches):
    with load_embedder(BASE) as embedder:
        found = [embedder.encode([text]).dense[0] for text in TEXTS[:6]]
    assert [batch.device for batch in batches] == ["cpu", "cpu:0"] * 3
    assert_close(found, base.encode(TEXTS[:6]).dense)


def test_all_copies_are_freed_with_the_last_embedder(tmp_path, two_devices):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    with load_embedder(folder) as embedder, load_embedder(folder):
        embedder.encode(TEXTS)
        assert sorted(key.device for key in models_in_memory() if key.folder == folder.resolve()) == ["cpu", "cpu:0"]
    assert all(key.folder != folder.resolve() for key in models_in_memory())


def test_if_one_copy_cannot_be_loaded_the_others_are_freed(tmp_path, two_devices, monkeypatch):
    folder = shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    from bge_integrations.core import residency

    load = residency.load_model

    def damaged_later(folder, family, device, *arguments):
        if device == "cpu:0":
            (folder / "model.safetensors").write_bytes(b"damaged")
        return load(folder, family, device, *arguments)

    monkeypatch.setattr(residency, "load_model", damaged_later)
    with pytest.raises(CheckpointError):
        load_embedder(folder)
    assert all(key.folder != folder.resolve() for key in models_in_memory())


@pytest.mark.parametrize("devices", [["cpu", "cpu"], ["cpu", "cpu:0"], []])
def test_invalid_lists_of_devices_are_refused(devices):
    with pytest.raises(InvalidInputError, match="device="):
        load_embedder(BASE, device=devices)
    with load_embedder(BASE, device=["cpu"]) as embedder:
        assert embedder.device == "cpu"
