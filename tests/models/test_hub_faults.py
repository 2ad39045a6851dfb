"""A hub that refuses, breaks off or is silent: each ends in one clear error, and a later download completes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BASE
from local_hub import local_hub

#: Loads models by name, and prints the error of each, or the shape of a vector.
LOAD = """
import json, sys, time
from bge_integrations import load_embedder
from bge_integrations.errors import BGEError
from bge_integrations.models import locating

locating._HUB_TIMEOUT = 1.0
time.sleep = lambda seconds: None  # the hub's library waits before it asks again
for name in sys.argv[1:]:
    try:
        with load_embedder(f"owner/{name}", pooling="cls") as embedder:
            outcome = embedder.encode(["a text"]).dense.shape[1]
    except BGEError as error:
        outcome = type(error).__name__
    print(json.dumps(outcome), flush=True)
"""


@pytest.fixture
def hub():
    with local_hub(Path(BASE)) as hub:
        yield hub


def load(hub, folder, *names):
    """Return what loading these models leads to, in one process whose hub cache is `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
            "HF_HOME": str(folder),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_that_refuses_or_breaks_off(hub, tmp_path):
    names = ["private", "missing", "gated", "busy", "broken", "cut", "cut-once", "whole"]
    assert load(hub, tmp_path, *names) == ["CheckpointNotFoundError"] * 6 + [64] * 2
    hub.files.clear()  # a complete checkpoint is used without the hub, and a partial one is not used
    assert load(None, tmp_path, "whole", "cut-once", "cut") == [64, 64, "CheckpointNotFoundError"]


def test_a_silent_hub(hub, tmp_path):
    assert load(hub, tmp_path, "silent") == ["CheckpointNotFoundError"]
