"""Read the rows for `bge embed` from JSONL or Parquet, in chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from bge_integrations.documents.pictures import check_picture
from bge_integrations.errors import InvalidInputError
from bge_integrations.lines import name_of, read_objects
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input

#: A chunk of rows as read.
Chunk: TypeAlias = list[dict[str, Any]] | pa.RecordBatch


class Rows(Protocol):
    """Rows with a text in one field, or an image in another, or both."""

    @property
    def digest(self) -> str | None:
        """SHA-256 of the file; None for standard input."""
        ...

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield all rows, `size` at a time.

        Raises:
            InvalidInputError: A row has neither, or already has a column that is to be added.
            UnreadableFileError: An image can't be decoded.
        """
        ...

    def inputs(self, chunk: Chunk) -> list[Input]:
        """Return what the model sees of each row."""
        ...

    def schema(self, size: int) -> pa.Schema:
        """Return the columns and types that fit all rows."""
        ...


class Fields:
    """The fields that contain the texts and the images.

    Args:
        text: The column of texts.
        image: The column of paths of images, relative to `folder`; None if the rows have no images. In rows with an
            image, a text is optional.
        folder: The folder of the rows' file.
    """

    def __init__(self, text: str, image: str | None, folder: Path) -> None:
        self.text, self.image, self._folder = text, image, folder
        self._checked: set[Path] = set()

    @property
    def names(self) -> list[str]:
        return [self.text] if self.image is None else [self.text, self.image]

    def check(self, row: dict[str, Any], row_name: str) -> None:
        """Check a row; each image is decoded once.

        Raises:
            InvalidInputError: It has neither a text nor an image.
            UnreadableFileError: Its image can't be decoded.
        """
        image = None if self.image is None else row.get(self.image)
        text = row.get(self.text)
        if image is not None and not isinstance(image, str):
            raise InvalidInputError(
                f"{row_name}, {self.image!r} must be the path of an image, got {type(image).__name__}"
            )
        if not isinstance(text, str) and (image is None or text is not None):
            wanted = f"text in {self.text!r}" + ("" if self.image is None else f" and no image in {self.image!r}")
            raise InvalidInputError(f"{row_name} has no {wanted}, only {', '.join(map(repr, row)) or 'nothing'}")
        if text is not None:
            check_text(text, f"{row_name}, {self.text!r}")
        if image is not None and (path := self._folder / image) not in self._checked:
            check_picture(path)
            self._checked.add(path)

    def input(self, row: dict[str, Any]) -> Input:
        """Return what the model sees of a checked row."""
        image = None if self.image is None else row.get(self.image)
        return row[self.text] if image is None else {"image": self._folder / image, "text": row.get(self.text)}


class JsonLines:
    """The objects of a JSONL file, or of standard input.

    Args:
        file: The file's name; "-" is standard input.
        fields: Its texts and images.
        added: Columns to be added, which the rows must not have yet.
    """

    def __init__(self, file: str, fields: Fields, added: list[str]) -> None:
        self._file = file
        self._fields = fields
        self._added = added

    @property
    def digest(self) -> str | None:
        return None if self._file == "-" else _digest(Path(self._file))

    def chunks(self, size: int) -> Iterator[Chunk]:
        rows = self._rows()
        while chunk := list(islice(rows, size)):
            _check_names(_names(chunk), self._added)
            yield chunk

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, row in read_objects(self._file):
            self._fields.check(row, f"{name_of(self._file)}, line {number}")
            yield row

    def inputs(self, chunk: Chunk) -> list[Input]:
        return [self._fields.input(row) for row in chunk]

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

    def __init__(self, file: str, fields: Fields, added: list[str]) -> None:
        self._path = Path(file)
        self._fields = fields
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
        present = [name for name in fields.names if name in self._schema.names]
        option = "--field" if fields.image is None else "--image-field"
        if fields.names[-1] not in present:
            raise InvalidInputError(
                f"{file} has no column {fields.names[-1]!r}",
                advice=f"pass another with {option}: {', '.join(self._schema.names)}",
            )
        for name in present:
            kind = self._schema.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InvalidInputError(
                    f"the column {name!r} of {file} contains {kind}, not strings", advice=f"pass another with {option}"
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
                    for i, row in enumerate(self._read(batch), start=start + 1):
                        self._fields.check(row, f"{self._path}, row {i}")
                    yield batch
                    start += batch.num_rows
        except (pa.ArrowException, OSError) as error:  # such as a text that is not UTF-8
            raise InvalidInputError(f"{self._path}, from row {start + 1}: {error}") from error
        if not start:
            raise InvalidInputError(f"{self._path} is empty")

    def inputs(self, chunk: Chunk) -> list[Input]:
        return [self._fields.input(row) for row in self._read(chunk)]

    def _read(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return the columns that are embedded."""
        assert isinstance(chunk, pa.RecordBatch)
        names = [name for name in self._fields.names if name in chunk.schema.names]
        rows: list[dict[str, Any]] = chunk.select(names).to_pylist()
        return rows

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
