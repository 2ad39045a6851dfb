"""Daft: vectors of a column of texts, as an expression."""

from __future__ import annotations

from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from bge_integrations.jobs.batches import BatchEmbedder
from bge_integrations.optional import needed_by

with needed_by("bge_integrations.jobs.daft", "bge-integrations[daft]"):
    import daft


def embed(
    text: daft.Expression, model: str = "BAAI/bge-m3", *, concurrency: int = 1, gpus: float = 0, **settings: Any
) -> daft.Expression:
    """Return an expression for the columns dense, sparse and multi_vector.

    The columns are those of `jobs/vectors.py`, with lists of any size, and with float32 instead of float16.

    Args:
        text: The texts.
        model: An embedding model: hub id, "pocket", the URL of a server, or a folder that all machines can read.
        concurrency: Number of processes with a copy of the model.
        gpus: GPUs per process.
        settings: Other arguments of `BatchEmbedder`: kind, sparse, …, and those of `load_embedder`.

    Raises:
        InvalidInputError: There is nothing to compute, or the precision is unknown.
    """
    call = BatchEmbedder(model, **settings)
    added = call.columns.plain_fields
    returned = daft.DataType.struct({field.name: daft.DataType.from_arrow_type(field.type) for field in added})

    @daft.cls(max_concurrency=concurrency, gpus=gpus)
    class Embedder:
        @daft.method.batch(  # type: ignore[untyped-decorator]
            return_dtype=returned, unnest=True, batch_size=call.batch_size
        )
        def embed(self, texts: daft.Series) -> Any:
            table = call(pa.table({call.column: texts.to_arrow()}), added).drop_columns([call.column])
            return table.to_struct_array().combine_chunks()

    expression: daft.Expression = Embedder().embed(text)
    return expression
