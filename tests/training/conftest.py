"""Fixtures of the training tests: the reference's numbers, and checkpoints without dropout."""

import json
import shutil

import pytest
from conftest import CHECKPOINTS, ORACLE

from bge_integrations.training import TrainingRow


@pytest.fixture(scope="session")
def expected():
    """FlagEmbedding's losses, gradients and runs of embedders on the tiny checkpoints."""
    return json.loads((ORACLE / "training" / "embedder.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def without_dropout(tmp_path_factory):
    """Return a function that returns a copy of a tiny checkpoint, under its name, without dropout."""
    root = tmp_path_factory.mktemp("checkpoints")

    def copy(name):
        folder = root / name
        if not folder.exists():
            shutil.copytree(CHECKPOINTS / name, folder)
            config = json.loads((folder / "config.json").read_text("utf-8"))
            config |= {key: 0.0 for key in config if key.endswith(("dropout", "dropout_prob")) and config[key]}
            (folder / "config.json").write_text(json.dumps(config), "utf-8")
        return folder

    return copy


@pytest.fixture(scope="session")
def rows(expected):
    """The reference's four queries with a positive, three negatives and teacher scores."""
    return [
        TrainingRow(
            group["query"],
            (group["positive"],),
            tuple(group["negatives"]),
            pos_scores=tuple(group["teacher_scores"][:1]),
            neg_scores=tuple(group["teacher_scores"][1:]),
        )
        for group in expected["groups"]
    ]
