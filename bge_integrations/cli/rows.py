"""Read the rows for `bge embed` from JSONL or Parquet, in chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from bge_integrations.errors import InvalidInputError
from bge_integrations.lines import read_rows
from bge_integrations.validation import check_text

#: A chunk of rows as read.
Chunk: TypeAlias = list[dict[str, Any]] | pa.RecordBatch


class Rows(Protocol):
    """Rows with a text in one field."""

    @property
    def digest(self) -> str | None:
        """SHA-256 of the file; None for standard input."""
        ...

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield all rows, `size` at a time.

        Raises:
            InvalidInputError: A row has no text, or already has a column that is to be added.
        """
        ...

    def texts(self, chunk: Chunk) -> list[str]: ...

    def schema(self, size: int) -> pa.Schema:
        """Return the columns and types that fit all rows."""
        ...


class JsonLines:
    """The objects of a JSONL file, or of standard input.

    Args:
        file: The file's name; "-" is standard input.
        field: The column that contains the texts.
        added: Columns to be added, which the rows must not have yet.
    """

    def __init__(self, file: str, field: str, added: list[str]) -> None:
        self._file = file
        self._field = field
        self._added = added

    @property
    def digest(self) -> str | None:
        return None if self._file == "-" else _digest(Path(self._file))

    def chunks(self, size: int) -> Iterator[Chunk]:
        rows = read_rows(self._file, self._field)
        while chunk := list(islice(rows, size)):
            _check_names(_names(chunk), self._added)
            yield chunk

    def texts(self, chunk: Chunk) -> list[str]:
        return [row[self._field] for row in chunk]

    def schema(self, size: int) -> pa.Schema:
        schema = pa.schema([])
        for chunk in self.chunks(size):
            try:
                columns = {name: pa.array([row.get(name) for row in chunk]) for name in _names(chunk)}
                schema = pa.unify_schemas([schema, pa.table(columns).schema], promote_options="permissive")
            except (pa.ArrowException, OverflowError) as error:
                raise InvalidInputError(
                    f"{self._file} has a column with values of different types, which Parquet does not allow ({error})",
                    advice="write .jsonl instead",
                ) from error
        return schema


class Parquet:
    """The rows of a Parquet file, with the same arguments as `JsonLines`."""

    def __init__(self, file: str, field: str, added: list[str]) -> None:
        self._path = Path(file)
        self._field = field
        with self._path.open("rb"):  # raises the usual OSError if the file does not exist
            try:
                self._schema = pq.read_schema(self._path)
            except (pa.ArrowException, OSError) as error:  # pyarrow raises OSError for some damaged files
                raise InvalidInputError(f"{file} is not a readable Parquet file ({error})") from error
        if twice := sorted({name for name in self._schema.names if self._schema.names.count(name) > 1}):
            raise InvalidInputError(
                f"{file} has more than one column {', '.join(map(repr, twice))}", advice="rename them"
            )
        _check_names(self._schema.names, added)
        if field not in self._schema.names:
            raise InvalidInputError(
                f"{file} has no column {field!r}", advice=f"pass another with --field: {', '.join(self._schema.names)}"
            )
        kind = self._schema.field(field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InvalidInputError(
                f"the column {field!r} of {file} contains {kind}, not strings", advice="pass another with --field"
            )

    @property
    def digest(self) -> str | None:
        return _digest(self._path)

    def chunks(self, size: int) -> Iterator[Chunk]:
        start = 0
        try:
            with pq.ParquetFile(self._path) as opened:
                for batch in opened.iter_batches(size):
                    batch.validate(full=True)
                    for i, text in enumerate(self.texts(batch), start=start + 1):
                        check_text(text, f"{self._path}, row {i}, {self._field!r}")
                    yield batch
                    start += batch.num_rows
        except (pa.ArrowException, OSError) as error:  # such as a text that is not UTF-8
            raise InvalidInputError(f"{self._path}, from row {start + 1}: {error}") from error
        if not start:
            raise InvalidInputError(f"{self._path} is empty")

    def texts(self, chunk: Chunk) -> list[str]:
        assert isinstance(chunk, pa.RecordBatch)
        texts: list[str] = chunk.column(self._field).to_pylist()
        return texts

    def schema(self, size: int) -> pa.Schema:
        return self._schema


def as_rows(chunk: Chunk) -> list[dict[str, Any]]:
    return chunk.to_pylist() if isinstance(chunk, pa.RecordBatch) else chunk


def as_table(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    if isinstance(chunk, pa.RecordBatch):
        return pa.Table.from_batches([chunk], schema)
    return pa.Table.from_pylist(chunk, schema)


def json_line(row: dict[str, Any], row_name: str) -> str:
    """Return the row as a line of JSON.

    Raises:
        InvalidInputError: A value can't be written as JSON: NaN, a date, bytes. The message starts with `row_name`.
    """
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_list) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{row_name} can't be written as JSON ({error})", advice="write .parquet instead"
        ) from error


def _as_list(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"it contains a {type(value).__name__}")


def _check_names(names: list[str], added: list[str]) -> None:
    if taken := [name for name in added if name in names]:
        raise InvalidInputError(f"the rows already have {' and '.join(taken)}", advice="rename or remove that column")


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """Return all keys, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))
