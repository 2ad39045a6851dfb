"""Daft's expressions return the vectors that the embedder computes."""

import numpy as np
import pytest

daft = pytest.importorskip("daft")

from bge_integrations.errors import InvalidInputError  # noqa: E402
from bge_integrations.jobs.daft import embed  # noqa: E402

TEXTS = [f"Panda {i} eats bamboo." + " Rome." * (i % 7) for i in range(200)]
pytestmark = pytest.mark.usefixtures("engine_workers")


def test_every_row_gets_its_vectors(pocket):
    df = daft.from_pydict({"id": list(range(200)), "text": TEXTS}).into_partitions(3)
    chosen = embed(daft.col("text"), "pocket", sparse=True, multi_vector=True, precision="float16")
    table = df.select("id", "text", chosen).to_arrow().sort_by("id")
    assert table.column("text").to_pylist() == TEXTS
    expected = pocket.encode(TEXTS, kind="passage", sparse=True, multi_vector=True)
    np.testing.assert_allclose(np.array(table.column("dense").to_pylist()), expected.dense, atol=1e-3)
    for row in (0, 199):
        stored = {name: table.column(name)[row].as_py() for name in ("sparse", "multi_vector")}
        assert stored["sparse"]["indices"] == expected.sparse[row].indices.tolist()
        np.testing.assert_allclose(stored["multi_vector"], expected.multi_vector[row], atol=1e-3)


def test_mistakes_reach_the_caller():
    with pytest.raises(InvalidInputError):
        embed(daft.col("text"), "pocket", dense=False)
    df = daft.from_pydict({"text": ["a", None]})
    with pytest.raises(Exception, match="text"):
        df.select(embed(daft.col("text"), "pocket")).collect()
