"""Spark's DataFrames get the vectors that the embedder computes."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("pyspark")

from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.spark import embed_dataframe, embed_udf

TEXTS = [f"Panda {i} eats bamboo." + " Rome." * (i % 7) for i in range(200)]


@pytest.fixture(scope="module")
def spark(engine_workers) -> Iterator[SparkSession]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False)
        with builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate() as session:
            yield session


@pytest.fixture
def rows(spark) -> DataFrame:
    return spark.createDataFrame(list(enumerate(TEXTS)), ["id", "text"]).repartition(3)


def test_every_row_gets_its_vectors(rows, pocket):
    df = embed_dataframe(rows, "pocket", sparse=True, multi_vector=True)
    table = df.toArrow().sort_by("id")
    assert table.column("id").to_pylist() == list(range(200))
    expected = pocket.encode(TEXTS, kind="passage", sparse=True, multi_vector=True)
    np.testing.assert_allclose(np.array(table.column("dense").to_pylist()), expected.dense, atol=1e-6)
    for row in (0, 199):
        stored = {name: table.column(name)[row].as_py() for name in ("sparse", "multi_vector")}
        assert stored["sparse"]["indices"] == expected.sparse[row].indices.tolist()
        np.testing.assert_allclose(stored["multi_vector"], expected.multi_vector[row], atol=1e-6)


def test_small_precisions_and_queries(rows, pocket):
    table = embed_dataframe(rows, "pocket", kind="query", precision="int8").toArrow().sort_by("id")
    expected = pocket.encode_dense(TEXTS, kind="query")
    scale = np.array(table.column("dense_scale").to_pylist())
    dense = np.array(table.column("dense").to_pylist()) * scale[:, None]
    np.testing.assert_allclose(dense, expected, atol=scale.max() / 2 + 1e-6)
    bits = embed_dataframe(rows, "pocket", kind="query", precision="binary").toArrow().sort_by("id").column("dense")
    unpacked = [np.unpackbits(np.frombuffer(row, np.uint8)) for row in bits.to_pylist()]
    assert (np.array(unpacked) == (expected > 0)).all()


def test_a_function_of_columns(rows, pocket):
    embed = embed_udf("pocket", kind="query")
    table = rows.withColumn("vector", embed("text")).toArrow().sort_by("id")
    expected = pocket.encode_dense(TEXTS, kind="query")
    np.testing.assert_allclose(np.array(table.column("vector").to_pylist()), expected, atol=1e-6)


def test_mistakes_reach_the_caller(spark):
    with pytest.raises(InvalidInputError):
        embed_dataframe(spark.createDataFrame([("a",)], ["text"]), "pocket", dense=False)
    with_null = spark.createDataFrame([(1, "a"), (2, None)], "id int, text string")
    with pytest.raises(PythonException, match="InvalidInputError"):
        embed_dataframe(with_null, "pocket").collect()
