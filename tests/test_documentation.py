"""Every Python block of the README and the docs runs as written, with tiny checkpoints in the hub's cache."""

import os
import re
import subprocess
import sys

import pytest
from conftest import CHECKPOINTS, TESTS

PROJECT = TESTS.parent
PUBLISHED = {
    "bge-base-en-v1.5": "bge-base-en-v1.5",
    "bge-small-en-v1.5": "bge-base-en-v1.5",
    "bge-m3": "bge-m3",
    "bge-reranker-v2-m3": "bge-reranker-v2-m3",
}


def blocks():
    for file in [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]:
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", file.read_text("utf-8"), re.M | re.S)):
            yield pytest.param(code, id=f"{file.name}-{i}")


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory):
    """A hub cache that holds the tiny checkpoints under the published names."""
    home = tmp_path_factory.mktemp("hf")
    for name, checkpoint in PUBLISHED.items():
        repository = home / "hub" / f"models--BAAI--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "snapshots").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        (repository / "snapshots" / ("0" * 40)).symlink_to(CHECKPOINTS / checkpoint)
    return home


@pytest.mark.parametrize("code", list(blocks()))
def test_block(code, hub_cache, tmp_path):
    environment = {**os.environ, "HF_HOME": str(hub_cache), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_begins_with_the_two_commands():
    commands = re.findall(r"^```\n(.*?)\n```", (PROJECT / "README.md").read_text("utf-8"), re.M | re.S)
    assert commands[:2] == ["make demo", "make test"]
