"""Write the output of `bge embed`: rows are collected next to the output until all are done.

OUTPUT.partial/            is removed when the rows are moved to OUTPUT
    settings.json          model, input and options that the rows depend on
    rows.jsonl             for JSONL: lines, of which the last may be incomplete after a kill
    000000000256.parquet   for Parquet: parts, named after the number of rows written so far
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from bge_integrations.atomic_files import atomic_writer, move_atomically, write_atomically
from bge_integrations.cli.rows import Chunk, as_rows, as_table, json_line
from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.vectors import METADATA_KEY

#: Parquet types of the added columns.
TYPES = {
    "dense": pa.list_(pa.float32()),
    "sparse": pa.struct({"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())}),
    "multi_vector": pa.list_(pa.list_(pa.float32())),
}
Columns = dict[str, list[Any]]
#: Names of the files in the folder, see above; a kill during a write leaves `.NAME.RANDOM.new`.
_OURS = re.compile(
    r"\.lock|settings\.json|rows\.jsonl|\d+\.(parquet|new)|joined\.new|\.(settings\.json|\d+\.parquet)\.\w+\.new"
)


class Partial:
    """The folder OUTPUT.partial, which only one process at a time can use.

    Args:
        output: The file that the rows are moved to.
        settings: The settings that the rows depend on. Rows with the same settings are kept.
        overwrite: Replace the output, and discard rows with other settings.

    Raises:
        InvalidInputError: The folder contains other files or rows with other settings, another process is writing to
            it, or the output exists.
    """

    def __init__(self, output: Path, settings: dict[str, Any], overwrite: bool) -> None:
        self.output = output
        self.settings = settings
        self.folder = output.with_name(f"{output.name}.partial")
        self.folder.mkdir(exist_ok=True)
        foreign = next((path.name for path in self.folder.iterdir() if not _OURS.fullmatch(path.name)), None)
        if foreign is not None:  # the whole folder is removed at the end
            raise InvalidInputError(
                f"{self.folder} is needed for unfinished rows, but contains {foreign}, which is not from this command",
                advice="move it away, or choose another output",
            )
        self._overwrite = overwrite
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InvalidInputError(
                f"another process is writing to {self.folder}", advice="wait until it ends"
            ) from None
        try:
            self._check_output("")  # another process may have finished since the first check
            self._check(settings)
        except InvalidInputError:
            self.close()
            raise

    def _check_output(self, rows: str) -> None:
        if self.output.exists() and not self._overwrite:
            raise InvalidInputError(
                f"{self.output} was created by another process in the meantime{rows}",
                advice="choose another file, or replace it with --overwrite",
            )

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.folder / "settings.json"
        try:
            stored = json.loads(file.read_text("utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):  # not written yet, or damaged
            stored = {}
        different = [name for name in settings if stored.get(name) != settings[name]]
        if different and self._has_rows() and not self._overwrite:
            raise InvalidInputError(
                f"{self.folder} was written with another {', '.join(different)}",
                advice="run that command again to finish it, delete the folder, or start over with --overwrite",
            )
        if different or settings["input"] is None:  # standard input can't be read again
            for path in self.folder.iterdir():
                if path.name != ".lock":
                    path.unlink()
        write_atomically(file, json.dumps(settings, indent=2).encode())

    def become(self, file: Path) -> None:
        """Move the finished file to the output.

        Raises:
            InvalidInputError: The output was created in the meantime; the rows stay here.
        """
        self._check_output(f" (these rows are in {self.folder})")
        move_atomically(file, self.output)
        self._remove()

    def close(self) -> None:
        """Release the folder, and remove it if it has no rows. A second call does nothing."""
        if self._lock.is_locked and not self._has_rows():
            self._remove()
        self._lock.release()

    def _has_rows(self) -> bool:
        return any(path.stat().st_size for path in self.folder.iterdir() if path.suffix in (".jsonl", ".parquet"))

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # before releasing the lock, so that nobody uses the folder
        self._lock.release()
        with suppress(OSError):  # not empty if an open file could not be removed
            self.folder.rmdir()


class Writer(Protocol):
    """Writes rows with their new columns.

    Attributes:
        done: Number of rows that an earlier run wrote: complete chunks, or all rows.
    """

    done: int

    def write(self, chunk: Chunk, columns: Columns) -> None: ...

    def finish(self) -> None:
        """Move the rows to the output."""
        ...

    def close(self) -> None:
        """Release the files; without `finish`, the rows are kept for the next run."""
        ...


class LinesWriter:
    """Writes JSONL."""

    def __init__(self, partial: Partial, size: int) -> None:
        self._partial = partial
        self._path = partial.folder / "rows.jsonl"
        self.done, end = _complete(self._path, size)
        self._file = self._path.open("a", encoding="utf-8", newline="\n")
        self._file.truncate(end)

    def write(self, chunk: Chunk, columns: Columns) -> None:
        _write_lines(self._file, chunk, columns)

    def finish(self) -> None:
        self._file.close()
        self._partial.become(self._path)

    def close(self) -> None:
        self._file.close()
        self._partial.close()


class PartsWriter:
    """Writes Parquet: one file per chunk, which `finish` joins."""

    def __init__(self, partial: Partial, schema: pa.Schema, added: list[str]) -> None:
        self._partial = partial
        self._schema = schema
        self._output_schema = schema
        for name in added:
            self._output_schema = self._output_schema.append(pa.field(name, TYPES[name]))
        note = json.dumps(partial.settings, ensure_ascii=False).encode()
        self._output_schema = self._output_schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: note})
        self.done = max((int(path.stem) for path in self._parts()), default=0)
        self._written = self.done

    def write(self, chunk: Chunk, columns: Columns) -> None:
        table = as_table(chunk, self._schema)
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, TYPES[name]))
        self._written += table.num_rows
        part = self._partial.folder / f"{self._written:012d}.parquet"
        with atomic_writer(part) as file:
            pq.write_table(table, file)

    def finish(self) -> None:
        joined = self._partial.folder / "joined.new"
        with pq.ParquetWriter(joined, self._output_schema) as writer:
            for part in self._parts():
                writer.write_table(pq.read_table(part, schema=self._output_schema))
        self._partial.become(joined)

    def close(self) -> None:
        self._partial.close()

    def _parts(self) -> list[Path]:
        return sorted(self._partial.folder.glob("*.parquet"))


class StreamWriter:
    """Writes JSONL to standard output."""

    done = 0

    def write(self, chunk: Chunk, columns: Columns) -> None:
        _write_lines(sys.stdout, chunk, columns)

    def finish(self) -> None:
        """Do nothing: all chunks are written already."""

    def close(self) -> None:
        """Do nothing: standard output stays open."""


def _write_lines(file: TextIO, chunk: Chunk, columns: Columns) -> None:
    for i, row in enumerate(as_rows(chunk)):
        extended = row | {name: values[i] for name, values in columns.items()}
        file.write(json_line(extended, "a row"))
    file.flush()


def _complete(path: Path, size: int) -> tuple[int, int]:
    """Return the number of lines in a file's complete chunks, and the byte position where they end."""
    done = end = position = 0
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                position += len(line)
                if number % size == 0 and line.endswith(b"\n"):
                    done, end = number, position
    return done, end
