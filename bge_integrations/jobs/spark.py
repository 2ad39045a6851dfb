"""Spark: vectors for the rows of a DataFrame, and a function of columns.

Spark starts as many Python workers per machine as it runs tasks at once, and each holds one copy of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]

from bge_integrations.core.loading import load_embedder
from bge_integrations.jobs.batches import BATCH_SIZE, BatchEmbedder
from bge_integrations.optional import needed_by

with needed_by("bge_integrations.jobs.spark", "bge-integrations[spark]"):
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame

    from bge_integrations.core.embedder import TextKind


def embed_dataframe(df: DataFrame, model: str = "BAAI/bge-m3", **settings: Any) -> DataFrame:
    """Return a DataFrame with the vectors as additional columns; it is computed when it is used.

    The columns are those of `jobs/vectors.py`, with lists of any size, and with float32 instead of float16.

    Args:
        df: The rows.
        model: An embedding model: hub id, "pocket", the URL of a server, or a folder that all machines can read.
        settings: Other arguments of `BatchEmbedder`: column, kind, sparse, …, and those of `load_embedder`.

    Raises:
        InvalidInputError: There is nothing to compute, or the precision is unknown.
    """
    call = BatchEmbedder(model, **settings)
    added = call.columns.plain_fields

    def embed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, call.batch_size):
                rows = pa.Table.from_batches([batch.slice(start, call.batch_size)])
                yield from call(rows, added).to_batches()

    fields = [StructField(field.name, from_arrow_type(field.type)) for field in added]
    return df.mapInArrow(embed, StructType([*df.schema.fields, *fields]))


def embed_udf(
    model: str = "BAAI/bge-m3", *, kind: TextKind | None = "passage", **settings: Any
) -> Callable[[Column], Column]:
    """Return a function that turns a column of texts into a column of dense vectors, array<float>.

    Args:
        model: An embedding model; see `embed_dataframe`.
        kind: Which of the model's instructions to prepend; None for neither.
        settings: Keywords of `load_embedder`.
    """

    def load() -> Callable[[NDArray[np.str_]], NDArray[np.float32]]:
        embedder = load_embedder(model, **settings)
        return lambda texts: embedder.encode_dense(texts.tolist(), kind=kind)

    udf: Callable[[Column], Column] = predict_batch_udf(load, return_type=ArrayType(FloatType()), batch_size=BATCH_SIZE)
    return udf
