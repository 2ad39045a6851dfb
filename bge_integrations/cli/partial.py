"""What `bge embed` writes: rows with vectors, kept beside the output until all are done.

OUTPUT.partial/            until the rows are moved to OUTPUT
    settings.json          model, input and options that the rows depend on
    rows.jsonl             for JSONL: complete lines, and after a kill perhaps a part of one
    000000000256.parquet   for Parquet: parts, each named by the number of rows up to its end
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

#: Parquet types of the added columns.
TYPES = {
    "dense": pa.list_(pa.float32()),
    "sparse": pa.struct({"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())}),
    "multi_vector": pa.list_(pa.list_(pa.float32())),
}
Columns = dict[str, list[Any]]
#: Names of the files in the folder, see above; `.NAME.RANDOM.new` is left by a kill while one was written.
_OURS = re.compile(
    r"\.lock|settings\.json|rows\.jsonl|\d+\.(parquet|new)|joined\.new|\.(settings\.json|\d+\.parquet)\.\w+\.new"
)


class Partial:
    """The folder OUTPUT.partial, which one process at a time may use.

    Args:
        output: The file that the rows become.
        settings: What the rows depend on. Rows with the same settings are kept.
        overwrite: Replace the output, and discard rows with other settings.

    Raises:
        InvalidInputError: There are rows with other settings, another process is writing, the output exists, or the
            folder contains something else.
    """

    def __init__(self, output: Path, settings: dict[str, Any], overwrite: bool) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.partial")
        self.folder.mkdir(exist_ok=True)
        foreign = next((path.name for path in self.folder.iterdir() if not _OURS.fullmatch(path.name)), None)
        if foreign is not None:  # the whole folder is removed at the end
            raise InvalidInputError(
                f"{self.folder} is needed for unfinished rows, but contains {foreign}, which is not from this command; "
                "move it away, or name another output"
            )
        self._overwrite = overwrite
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InvalidInputError(f"another process is writing {self.folder}; wait until it ends") from None
        try:
            self._check_output("")  # another process may have finished while this one loaded the model
            self._check(settings)
        except InvalidInputError:
            self.close()
            raise

    def _check_output(self, rows: str) -> None:
        if self.output.exists() and not self._overwrite:
            raise InvalidInputError(
                f"{self.output} was created by another process in the meantime{rows}; name another file, or replace it "
                "with --overwrite"
            )

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.folder / "settings.json"
        try:
            found = json.loads(file.read_text("utf-8"))
        except (FileNotFoundError, ValueError):  # not written yet, or damaged
            found = {}
        different = [name for name in settings if found.get(name) != settings[name]]
        if different and self._has_rows() and not self._overwrite:
            raise InvalidInputError(
                f"{self.folder} was made with another {', '.join(different)}; run that command again to finish it, "
                "delete the folder, or start over with --overwrite"
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
        shutil.rmtree(self.folder, ignore_errors=True)  # with the lock held: another process may want it next
        self._lock.release()
        with suppress(OSError):  # still there if an open file could not be removed
            self.folder.rmdir()


class Writer(Protocol):
    """Writes rows with their new columns.

    Attributes:
        done: How many rows an earlier run wrote: whole chunks, unless it wrote all rows.
    """

    done: int

    def write(self, chunk: Chunk, columns: Columns) -> None: ...

    def finish(self) -> None:
        """Move the rows to the output."""
        ...

    def close(self) -> None:
        """Release the files; without `finish`, the rows stay for another run."""
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
    """Writes Parquet: each chunk becomes a file, and `finish` joins them."""

    def __init__(self, partial: Partial, schema: pa.Schema, added: list[str]) -> None:
        self._partial = partial
        self._schema = schema
        self._whole = schema
        for name in added:
            self._whole = self._whole.append(pa.field(name, TYPES[name]))
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
        with pq.ParquetWriter(joined, self._whole) as writer:
            for part in self._parts():
                writer.write_table(pq.read_table(part, schema=self._whole))
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
        """Do nothing: every chunk has been written."""

    def close(self) -> None:
        """Do nothing: standard output stays open."""


def _write_lines(file: TextIO, chunk: Chunk, columns: Columns) -> None:
    for i, row in enumerate(as_rows(chunk)):
        whole = row | {name: values[i] for name, values in columns.items()}
        file.write(json_line(whole, "a row"))
    file.flush()


def _complete(path: Path, size: int) -> tuple[int, int]:
    """Return the number of lines in complete chunks of a file, and the position of their end."""
    done = end = position = 0
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                position += len(line)
                if number % size == 0 and line.endswith(b"\n"):
                    done, end = number, position
    return done, end
