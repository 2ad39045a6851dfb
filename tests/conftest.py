"""Shared fixtures: the oracle's checkpoints and numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_integrations import load_embedder, load_reranker

pytest.register_assert_rewrite("llama_index_contract")

TESTS = Path(__file__).parent
ORACLE = TESTS / "oracle"
CHECKPOINTS = ORACLE / "checkpoints"
MODEL_FILES = TESTS / "model_files"

BASE = str(CHECKPOINTS / "bge-base-en-v1.5")
M3 = str(CHECKPOINTS / "bge-m3")
RERANKER = str(CHECKPOINTS / "bge-reranker-v2-m3")


@pytest.fixture(scope="session")
def oracle() -> dict[str, Any]:
    return json.loads((ORACLE / "expected.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def texts(oracle) -> list[str]:
    return oracle["texts"]


@pytest.fixture(scope="session")
def pairs(oracle) -> list[tuple[str, str]]:
    return [(query, passage) for query, passage in oracle["pairs"]]


@pytest.fixture(scope="session")
def base():
    with load_embedder(BASE) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def m3():
    with load_embedder(M3) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def reranker():
    with load_reranker(RERANKER) as loaded:
        yield loaded


def assert_close(found, expected, tolerance: float = 1e-5) -> None:
    """The largest difference is at most `tolerance` of the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    difference = np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    assert difference <= tolerance, f"relative difference {difference:.2e}"
