"""Callables that add vectors, scores or documents batch by batch, in the worker processes of any engine.

A callable contains only settings, so engines can pickle it. Each worker process loads the model when the first batch
arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]

from bge_integrations.core.loading import load_embedder, load_reranker
from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.vectors import Precision, VectorColumns

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder, TextKind
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.index import M3Index

#: Rows of a batch; the multi-vectors of one row take megabytes.
BATCH_SIZE, _ROWS_WITH_MULTI_VECTORS = 1024, 32
#: Models of each kind that a worker process keeps, because engines unpickle the callable again for every task.
_KEPT = 2


class BatchEmbedder:
    """Adds the columns dense, sparse and multi_vector to tables of rows; `jobs/vectors.py` describes them.

    Example:
        >>> import pyarrow as pa
        >>> from bge_integrations.jobs import BatchEmbedder
        >>> embed = BatchEmbedder("BAAI/bge-m3", sparse=True)
        >>> embed(pa.table({"text": ["Pandas eat bamboo.", "Herons eat fish."]})).column_names
        ['text', 'dense', 'sparse']

    Args:
        model: An embedding model: hub id, "pocket", the URL of a server, or a folder that all workers can read.
        column: The column that contains the texts.
        kind: Which of the model's instructions to prepend; None for neither.
        dense, sparse, multi_vector: The representations to compute.
        precision: How dense vectors are stored.
        settings: Keywords of `load_embedder`: device, dtype, max_length, …

    Attributes:
        column: The column that contains the texts.
        columns: The columns to add.

    Raises:
        InvalidInputError: There is nothing to compute, or the precision is unknown.
    """

    def __init__(
        self,
        model: str = "BAAI/bge-m3",
        *,
        column: str = "text",
        kind: TextKind | None = "passage",
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        precision: Precision = "float32",
        **settings: Any,
    ) -> None:
        self.column = column
        self.columns = VectorColumns(dense, sparse, multi_vector, precision)
        self._kind = kind
        self._arguments = _Arguments(model=model, **settings)

    @property
    def embedder(self) -> Embedder:
        """This process's model, which is loaded on first use."""
        return _embedder(self._arguments)

    @property
    def batch_size(self) -> int:
        """The number of rows to pass at a time: enough to fill the device, few enough to fit into memory."""
        return _ROWS_WITH_MULTI_VECTORS if self.columns.multi_vector else BATCH_SIZE

    def __call__(self, table: pa.Table, fields: Sequence[pa.Field] | None = None) -> pa.Table:
        """Return the table with the vectors.

        Args:
            table: The rows.
            fields: The new columns with other types, such as `columns.plain_fields`.

        Raises:
            InvalidInputError: The column is missing or has no text in a row, or a new column exists already.
        """
        texts = texts_of(table, self.column)
        added = self.columns.fields(self.embedder) if fields is None else fields
        if taken := [field.name for field in added if field.name in table.column_names]:
            raise InvalidInputError(
                f"the rows already have {' and '.join(taken)}", advice="rename or remove that column"
            )
        arrays = self.columns.arrays(self.columns.encode(self.embedder, texts, self._kind))
        for field in added:
            table = table.append_column(field.name, arrays[field.name].cast(field.type))
        return table


class BatchReranker:
    """Adds the column `score`, float32, to tables of queries and passages.

    Args:
        model: A reranker: hub id, "pocket", the URL of a server, or a folder that all workers can read.
        query, passage: The columns that contain the queries and the passages.
        normalize: Map scores to 0..1 with a sigmoid.
        settings: Keywords of `load_reranker`.
    """

    def __init__(
        self,
        model: str = "BAAI/bge-reranker-v2-m3",
        *,
        query: str = "query",
        passage: str = "text",
        normalize: bool = False,
        **settings: Any,
    ) -> None:
        self._query, self._passage = query, passage
        self._normalize = normalize
        self._arguments = _Arguments(model=model, **settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the scores.

        Raises:
            InvalidInputError: A column is missing or has no text in a row, or there is a column `score` already.
        """
        pairs = list(zip(texts_of(table, self._query), texts_of(table, self._passage), strict=True))
        if "score" in table.column_names:
            raise InvalidInputError("the rows already have score", advice="rename or remove that column")
        scores = _reranker(self._arguments).score(pairs, normalize=self._normalize)
        return table.append_column("score", pa.array(scores))


class BatchIndexer:
    """Adds tables of rows to an `M3Index`, and returns the ids of the documents.

    Adding a table again changes nothing, so engines may repeat a batch.

    Args:
        url: The URL of a Qdrant server, with an existing index. Or a folder, which one worker at a time can open.
        model: The index's embedding model; see `BatchEmbedder`.
        column: The column that contains the texts.
        id_column: The column that contains the ids, strings or whole numbers. None derives ids from the rows' contents.
            The other columns become metadata.
        collection, api_key: As in `M3Index.open`.
        settings: Keywords of `load_embedder`.
    """

    def __init__(
        self,
        url: str,
        model: str = "BAAI/bge-m3",
        *,
        column: str = "text",
        id_column: str | None = None,
        collection: str = "documents",
        api_key: str | None = None,
        **settings: Any,
    ) -> None:
        self._url = url
        self._place: dict[str, Any] = {"collection": collection, "api_key": api_key}
        self._column, self._id_column = column, id_column
        self._arguments = _Arguments(model=model, **settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the rows, and return a table with the column `id`, once they are on disk.

        Raises:
            InvalidInputError: A column is missing, or a row is invalid.
            IndexLockedError: The index is a folder that another process has open.
        """
        with self.open(create=False) as index:
            return pa.table({"id": pa.array(add_rows(index, table, self._column, self._id_column), pa.string())})

    def open(self, create: bool) -> M3Index:
        """Open the index, which the caller closes; the model stays loaded."""
        from bge_integrations.index import M3Index

        return M3Index.open(self._url, _embedder(self._arguments), create=create, **self._place)


def add_rows(index: M3Index, table: pa.Table, column: str, id_column: str | None) -> list[str]:
    """Add a table of rows to an index and return their ids.

    Args:
        index: The index.
        table: The rows.
        column: The column that contains the texts.
        id_column: The column that contains the ids; None derives ids from the rows' contents. The other columns become
            metadata; nulls are left out.

    Raises:
        InvalidInputError: A column is missing, or a row is invalid.
    """
    texts = texts_of(table, column)
    ids = None if id_column is None else [_id(value, id_column) for value in _column(table, id_column).to_pylist()]
    others = [name for name in table.column_names if name not in (column, id_column)]
    rows = table.select(others).to_pylist() if others else [{} for _ in texts]
    metadatas = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return index.add(texts, ids, metadatas)


def _id(value: object, column: str) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise InvalidInputError(
        f"a row has {value!r} as its id in {column!r}", advice="give each row a string or a whole number"
    )


def texts_of(table: pa.Table, column: str) -> list[str]:
    """Return a column of texts.

    Raises:
        InvalidInputError: The column is missing, or has no text in a row.
    """
    texts = _column(table, column)
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise InvalidInputError(f"{column!r} has {texts.type}, not texts", argument="column", advice="convert it")
    if texts.null_count:
        raise InvalidInputError(
            f"{texts.null_count} of {len(texts)} rows have no text in {column!r}",
            argument="column",
            advice="filter them out first",
        )
    values: list[str] = texts.to_pylist()
    return values


def _column(table: pa.Table, column: str) -> pa.ChunkedArray:
    if table.column_names.count(column) == 1:
        return table.column(column)
    raise InvalidInputError(
        f"there are {table.column_names.count(column)} columns {column!r}",
        argument="column",
        advice=f"choose one of {', '.join(map(repr, table.column_names))}",
    )


class _Arguments(dict[str, Any]):
    """The arguments of a loading function, as the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@lru_cache(_KEPT)
def _embedder(arguments: _Arguments) -> Embedder:
    return load_embedder(**arguments)


@lru_cache(_KEPT)
def _reranker(arguments: _Arguments) -> Reranker:
    return load_reranker(**arguments)
