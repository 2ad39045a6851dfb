"""CUDA graphs, as far as a CPU can test them: their fixed batch, and the warning when they are not used."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BASE

from bge_integrations import load_embedder
from bge_integrations.errors import PerformanceWarning
from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.graphs import FixedBatch, GraphedEncoder
from bge_integrations.models.interface import TokenSequence

CPU = torch.device("cpu")


@pytest.fixture
def encoder():
    with load_embedder(BASE) as embedder:
        yield embedder._session.model._encoder


def batch_of(*lengths, with_types=False):
    ids = [(np.arange(length, dtype=np.int32) + 5 * length) % 90 for length in lengths]
    types = [np.ones(length, dtype=np.int32) if with_types else None for length in lengths]
    return PackedBatch.pack([TokenSequence(i, t) for i, t in zip(ids, types, strict=True)], CPU)


def nothing():
    pass


@torch.inference_mode()
def test_only_the_current_batch_matters(encoder):
    """Earlier contents and unused tokens of the fixed batch do not change the result."""
    fixed = FixedBatch(64, CPU)
    for batch in (
        batch_of(*[8] * 8),
        batch_of(9, with_types=True),
        batch_of(1),
        batch_of(30, 20, 3, with_types=True),
        batch_of(12),
        batch_of(64),
    ):
        fixed.put(batch)
        lengths = fixed.batch.cumulative.diff().tolist()
        assert sum(lengths) == 64
        readable = replace(fixed.batch, lengths=tuple(filter(None, lengths)))  # how CUDA's attention reads `cumulative`
        torch.testing.assert_close(
            encoder(readable, nothing)[: len(batch.ids)], encoder(batch, nothing), rtol=1e-5, atol=1e-5
        )


@torch.inference_mode()
def test_a_graph_that_cannot_be_recorded_warns_once_and_is_not_used(encoder, recwarn):
    graphed, batch = GraphedEncoder(encoder, CPU), batch_of(9, 4)
    found = [graphed(batch, nothing, batch.first_tokens) for _ in range(3)]
    for each in found:
        assert torch.equal(each, encoder(batch, nothing, batch.first_tokens))
    assert [warning.category for warning in recwarn] == [PerformanceWarning]
    assert "could not be recorded" in str(recwarn[0].message)
