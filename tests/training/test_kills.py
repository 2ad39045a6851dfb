"""A training that is killed again and again continues to the result of one that ran through."""

import subprocess
import sys
import time

import pytest
from conftest import CHECKPOINTS

from bge_integrations.training import TrainingRow, train_embedder

ROWS = [TrainingRow(f"question {i}", (f"answer {i}",), (f"something else {i}",)) for i in range(24)]
SETTINGS = {"batch_size": 2, "group_size": 2, "epochs": 2, "checkpoint_steps": 1, "device": "cpu"}
MODEL = CHECKPOINTS / "bge-base-en-v1.5"
TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from test_kills import MODEL, ROWS, SETTINGS
from bge_integrations.training import train_embedder
train_embedder(ROWS, MODEL, sys.argv[2], **SETTINGS)
"""


@pytest.mark.timeout(280)
def test_kills_change_nothing(tmp_path, request):
    whole = train_embedder(ROWS, MODEL, tmp_path / "whole", **SETTINGS)
    output, work = tmp_path / "killed", tmp_path / ".killed.training"
    for _ in range(2):
        before = {path.name for path in work.glob("checkpoint-*")}
        killed = subprocess.Popen([sys.executable, "-c", TRAIN, str(request.path.parent), str(output)])
        while killed.poll() is None and {path.name for path in work.glob("checkpoint-*")} <= before:
            time.sleep(0.002)
        killed.kill()
        killed.wait()
    assert not output.exists()
    assert list(work.glob("checkpoint-*"))
    continued = train_embedder(ROWS, MODEL, output, **SETTINGS)
    assert continued.losses == whole.losses
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}
