"""What `bge embed` writes: rows with vectors, kept beside the output until all are there.

OUTPUT.partial/            until the end, when the rows become OUTPUT
    settings.json          model, input and options that the rows were made with
    rows.jsonl             for JSONL: complete lines, and perhaps a piece of one
    000000000256.parquet   for Parquet: parts, each named by the number of rows up to its end
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from bge_integrations.cli.rows import Chunk, as_rows, as_table, json_line
from bge_integrations.errors import InvalidInputError

#: The columns that are added, in Parquet.
TYPES = {
    "dense": pa.list_(pa.float32()),
    "sparse": pa.struct({"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())}),
    "multi_vector": pa.list_(pa.list_(pa.float32())),
}
Columns = dict[str, list[Any]]
#: The files of the folder, see above.
_OURS = re.compile(r"\.lock|settings\.json|rows\.jsonl|\d+\.(parquet|new)|joined\.new")


class Partial:
    """The folder OUTPUT.partial, held by one process at a time.

    Args:
        output: The file that is to be.
        settings: What the rows depend on. Rows made with the same settings are kept.
        overwrite: Replace the output, and begin anew where the settings are others.

    Raises:
        InvalidInputError: There are rows made with other settings, another process writes, the output is there, or the
            folder holds something else.
    """

    def __init__(self, output: Path, settings: dict[str, Any], overwrite: bool) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.partial")
        self.folder.mkdir(exist_ok=True)
        foreign = next((path.name for path in self.folder.iterdir() if not _OURS.fullmatch(path.name)), None)
        if foreign is not None:  # the whole folder is removed at the end
            raise InvalidInputError(
                f"{self.folder} is needed for the rows on their way, and holds {foreign}, which is not of this "
                "command; move it away, or name another output"
            )
        self._overwrite = overwrite
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InvalidInputError(f"another process is writing {self.folder}; let it end") from None
        try:
            self._check_output("")  # another process may have finished while this one loaded the model
            self._check(settings)
        except InvalidInputError:
            self.close()
            raise

    def _check_output(self, rows: str) -> None:
        if self.output.exists() and not self._overwrite:
            raise InvalidInputError(
                f"{self.output} was made by another process meanwhile{rows}; name another file, or replace it with "
                "--overwrite"
            )

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.folder / "settings.json"
        try:
            found = json.loads(file.read_text("utf-8"))
        except (FileNotFoundError, ValueError):  # a kill came first, or in the middle
            found = {}
        different = [name for name in settings if found.get(name) != settings[name]]
        if different and self._has_rows() and not self._overwrite:
            raise InvalidInputError(
                f"{self.folder} was made with another {', '.join(different)}; run that command again to finish it, "
                "delete the folder, or begin anew with --overwrite"
            )
        if different or settings["input"] is None:  # standard input can't be read again
            for path in self.folder.iterdir():
                if path.name != ".lock":
                    path.unlink()
        file.write_text(json.dumps(settings, indent=2), "utf-8")

    def become(self, file: Path) -> None:
        """Put the finished file in the output's place.

        Raises:
            InvalidInputError: Something has been put there meanwhile; the rows stay here.
        """
        self._check_output(f" (these rows are in {self.folder})")
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        file.replace(self.output)
        self._remove()

    def close(self) -> None:
        """Let go of the folder; without rows in it, it goes. A second call does nothing."""
        if self._lock.is_locked and not self._has_rows():
            self._remove()
        self._lock.release()

    def _has_rows(self) -> bool:
        return any(path.stat().st_size for path in self.folder.iterdir() if path.suffix in (".jsonl", ".parquet"))

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # with the lock held: another process may want it next
        self._lock.release()
        with suppress(OSError):  # where a file that is open can't be removed
            self.folder.rmdir()


class Writer(Protocol):
    """Takes rows and their new columns.

    Attributes:
        done: How many rows were there from the beginning: whole chunks, unless it is all.
    """

    done: int

    def write(self, chunk: Chunk, columns: Columns) -> None: ...

    def finish(self) -> None:
        """Make it the output."""
        ...

    def close(self) -> None:
        """Let go of the files; without `finish`, what was written stays for another run."""
        ...


class LinesWriter:
    """JSONL."""

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
    """Parquet: each chunk becomes a file, and at the end all become one."""

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
        new = part.with_suffix(".new")
        pq.write_table(table, new)
        new.replace(part)  # so that a part is whole

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
    """JSONL on standard output."""

    done = 0

    def write(self, chunk: Chunk, columns: Columns) -> None:
        _write_lines(sys.stdout, chunk, columns)

    def finish(self) -> None:
        """Nothing: every chunk has been written."""

    def close(self) -> None:
        """Nothing: standard output stays open."""


def _write_lines(file: TextIO, chunk: Chunk, columns: Columns) -> None:
    for i, row in enumerate(as_rows(chunk)):
        whole = row | {name: values[i] for name, values in columns.items()}
        file.write(json_line(whole, "a row"))
    file.flush()


def _complete(path: Path, size: int) -> tuple[int, int]:
    """The lines of the complete chunks in a file, and where the last of these ends."""
    done = end = place = 0
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                place += len(line)
                if number % size == 0 and line.endswith(b"\n"):
                    done, end = number, place
    return done, end
