"""The files of a checkpoint lead to no file outside its folder."""

import json
import shutil

import pytest
from conftest import BASE
from safetensors import safe_open

from bge_integrations import load_embedder
from bge_integrations.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")


@pytest.mark.parametrize("relative", [True, False])
def test_weights_outside_the_folder_are_refused(folder, tmp_path, relative):
    outside = tmp_path / "other.safetensors"
    (folder / "model.safetensors").rename(outside)
    with safe_open(outside, "pt") as opened:
        names = dict.fromkeys(opened.keys(), "../other.safetensors" if relative else str(outside))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError) as caught:
        load_embedder(folder)
    assert "other.safetensors" in caught.value.finding


@pytest.mark.parametrize("relative", [True, False])
def test_a_pooling_outside_the_folder_is_refused(folder, tmp_path, relative):
    outside = tmp_path / "1_Pooling"
    outside.mkdir()
    (outside / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    path = "../1_Pooling" if relative else str(outside)
    module = {"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Pooling"}
    (folder / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(CheckpointError) as caught:
        load_embedder(folder)
    assert "1_Pooling" in caught.value.finding
