"""Read the rows of a job's inputs: JSON lines, Parquet, Arrow, or a data set of Hugging Face."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from bge_integrations.errors import BGEError, InvalidInputError
from bge_integrations.jobs.inputs import InputFile
from bge_integrations.lines import parse_row
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from datasets import Dataset

#: Lines that are parsed at a time.
_LINES = 1024


@dataclass(frozen=True)
class Scanned:
    """What a file contains.

    Attributes:
        rows: Number of rows.
        schema: Their columns.
        marks: Where rows 0, n, 2n, … start, in bytes; only for JSON lines that are not compressed.
    """

    rows: int
    schema: pa.Schema
    marks: list[int]


def scan(file: InputFile, field: str, every: int) -> Scanned:
    """Check a file's rows, and return their number and columns. Columnar files are only asked, not read.

    Args:
        file: The file.
        field: The column that contains the texts.
        every: The n of `Scanned.marks`.

    Raises:
        InvalidInputError: The file is damaged or empty, or a row has no text.
    """
    with _reading(file):
        if file.format == "jsonl":
            scanned = _scan_lines(file, field, every)
        elif file.dataset is not None:
            scanned = Scanned(len(file.dataset), file.dataset.features.arrow_schema, [])
            _check_column(file, scanned.schema, field)
        else:
            with file.open() as stream:
                scanned = _scan_columns(file, stream)
            _check_column(file, scanned.schema, field)
    if not scanned.rows:
        raise InvalidInputError(f"{file.url} is empty", argument="inputs", advice="leave it out")
    return scanned


@contextmanager
def _reading(file: InputFile) -> Iterator[None]:
    """Raise the errors of the libraries that read a file as InvalidInputError; pyarrow's are of many kinds."""
    try:
        yield
    except BGEError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
        raise InvalidInputError(f"{file.url} is cut short or damaged ({error})", argument="inputs") from error


def _scan_lines(file: InputFile, field: str, every: int) -> Scanned:
    schema = pa.schema([])
    rows = position = 0
    marks: list[int] = []
    with file.open() as stream:
        while lines := list(islice(stream, _LINES)):
            parsed = []
            for line in lines:
                if line.strip():
                    if rows % every == 0:
                        marks.append(position)
                    rows += 1
                    parsed.append(parse_row(line, field, f"{file.url}, row {rows}"))
                position += len(line)
            schema = _unified([schema, _table(file, parsed).schema], file.url)
    return Scanned(rows, schema, [] if file.is_compressed else marks)


def _scan_columns(file: InputFile, stream: IO[bytes]) -> Scanned:
    if file.format == "parquet":
        with pq.ParquetFile(stream) as opened:
            return Scanned(opened.metadata.num_rows, opened.schema_arrow, [])
    with _open_arrow(stream) as reader:
        return Scanned(sum(batch.num_rows for batch in _arrow_batches(reader)), reader.schema, [])


def _open_arrow(stream: IO[bytes]) -> Any:
    """Open Arrow's file format, or its stream format, which Hugging Face data sets are saved in."""
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    return pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(reader)


def _check_column(file: InputFile, schema: pa.Schema, field: str) -> None:
    if schema.names.count(field) != 1:
        raise InvalidInputError(
            f"{file.url} has {schema.names.count(field)} columns {field!r}",
            argument="field",
            advice=f"choose another: {', '.join(schema.names)}",
        )
    kind = schema.field(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidInputError(
            f"the column {field!r} of {file.url} contains {kind}, not strings",
            argument="field",
            advice="choose another column",
        )


def joined_schema(scanned: Sequence[Scanned]) -> pa.Schema:
    """Return the columns of all files together, without the files' own metadata.

    Raises:
        InvalidInputError: A column has types that do not fit together.
    """
    return _unified([each.schema.remove_metadata() for each in scanned], "the inputs")


def _unified(schemas: list[pa.Schema], where: str) -> pa.Schema:
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise InvalidInputError(
            f"a column of {where} has values of different types ({error})",
            argument="inputs",
            advice="convert them to one type",
        ) from error


def _table(file: InputFile, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> pa.Table:
    try:
        if schema is None:
            names = dict.fromkeys(name for row in rows for name in row)
            return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        return pa.Table.from_pylist(rows, schema)
    except (pa.ArrowException, OverflowError) as error:
        raise InvalidInputError(
            f"{file.url} has a column with values of different types ({error})",
            argument="inputs",
            advice="convert them to one type",
        ) from error


def read_tables(
    file: InputFile, field: str, schema: pa.Schema, start: int, rows: int, mark: int, size: int
) -> Iterator[pa.Table]:
    """Yield the rows of a file from `start` on, at most `size` at a time.

    Args:
        file: The file.
        field: The column that contains the texts.
        schema: The columns to return; those that the file lacks are null.
        start: The first row.
        rows: Number of rows.
        mark: Where the first row starts in bytes, in JSON lines that are not compressed.
        size: Maximum number of rows per table.

    Raises:
        InvalidInputError: A row has no text, or the file has changed.
    """
    found = 0
    with _reading(file):
        for table in _read(file, field, schema, start, rows, mark, size):
            for i, text in enumerate(table.column(field).to_pylist(), start=start + found + 1):
                check_text(text, f"{file.url}, row {i}, {field!r}")
            found += table.num_rows
            yield table
    if found != rows:
        raise InvalidInputError(
            f"{file.url} has changed: it has fewer than {start + rows} rows", advice="start again with another output"
        )


def _read(
    file: InputFile, field: str, schema: pa.Schema, start: int, rows: int, mark: int, size: int
) -> Iterator[pa.Table]:
    if file.dataset is not None:
        yield from _read_dataset(file.dataset, schema, start, rows, size)
        return
    with file.open() as stream:
        if file.format == "jsonl":
            if not file.is_compressed:
                stream.seek(mark)
            yield from _read_lines(file, stream, field, schema, start, rows, size)
        else:
            yield from _read_columns(file, stream, schema, start, rows, size)


def _read_dataset(dataset: Dataset, schema: pa.Schema, start: int, rows: int, size: int) -> Iterator[pa.Table]:
    tables = dataset.with_format("arrow")
    for begin in range(start, start + rows, size):
        yield _cast(tables[begin : min(begin + size, start + rows)], schema)


def _read_lines(
    file: InputFile, stream: IO[bytes], field: str, schema: pa.Schema, start: int, rows: int, size: int
) -> Iterator[pa.Table]:
    skipped = start if file.is_compressed else 0
    lines = islice((line for line in stream if line.strip()), skipped, skipped + rows)
    number = start
    while some := list(islice(lines, size)):
        parsed = [parse_row(line, field, f"{file.url}, row {i}") for i, line in enumerate(some, start=number + 1)]
        yield _table(file, parsed, schema)
        number += len(some)


def _read_columns(
    file: InputFile, stream: IO[bytes], schema: pa.Schema, start: int, rows: int, size: int
) -> Iterator[pa.Table]:
    for first, batch in _batches_from(file, stream, start, size):
        begin, end = max(start - first, 0), min(start + rows - first, batch.num_rows)
        for row in range(begin, end, size):
            yield _cast(pa.Table.from_batches([batch.slice(row, min(size, end - row))]), schema)
        if first + batch.num_rows >= start + rows:
            return


def _batches_from(file: InputFile, stream: IO[bytes], start: int, size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches and their first row's number, without reading Parquet's row groups before row `start`."""
    begin = 0
    if file.format == "parquet":
        with pq.ParquetFile(stream) as opened:
            groups = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
            first = 0
            while first < len(groups) and begin + groups[first] <= start:
                begin += groups[first]
                first += 1
            for batch in opened.iter_batches(size, row_groups=range(first, len(groups))):
                yield begin, batch
                begin += batch.num_rows
    else:
        with _open_arrow(stream) as reader:
            for batch in _arrow_batches(reader):
                yield begin, batch
                begin += batch.num_rows


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([_column(table, field) for field in schema], schema=schema)


def _column(table: pa.Table, field: pa.Field) -> Any:
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    return table.column(field.name).cast(field.type)
