"""The plan of a job: which rows go into which file of the output folder.

    OUTPUT/
        _plan.json                        the plan, written once by the process that comes first
        00000-corpus-0000000000.parquet   one file per part of the input, complete as soon as it exists
        .claims/00000-….lock              locked by the process that computes this file (on this machine's disks)

A file's existence is the only record that its rows are done, so a kill at any time neither loses nor doubles a row.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.inputs import InputFile
from bge_integrations.jobs.reading import Scanned, joined_schema

#: Incremented when a release writes plans that older ones would misread.
_FORMAT = 1
#: What the plan keeps of an input.
_STORED = ("url", "format", "size", "digest")
#: Characters that file names do not contain.
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Part:
    """A part of an input file, whose rows go into one file of the output.

    Attributes:
        name: The name of the file in the output.
        input: The position of the input file.
        start: Its first row.
        rows: Number of rows.
        mark: Where the first row starts in bytes, in JSON lines that are not compressed.
    """

    name: str
    input: int
    start: int
    rows: int
    mark: int


@dataclass(frozen=True)
class Plan:
    """A job's plan.

    Attributes:
        inputs: The input files.
        schema: Their columns together.
        parts: The parts, in the order of the input.
        settings: Everything else that the output depends on.
    """

    inputs: list[InputFile]
    schema: pa.Schema
    parts: list[Part]
    settings: dict[str, Any]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def to_json(self) -> bytes:
        """Return the plan as `from_json` reads it."""
        stored = {
            "format": _FORMAT,
            "settings": self.settings,
            "inputs": [{name: getattr(file, name) for name in _STORED} for file in self.inputs],
            "schema": base64.b64encode(self.schema.serialize()).decode(),
            "parts": [asdict(part) for part in self.parts],
        }
        return json.dumps(stored, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, content: bytes, source: str) -> Plan:
        """Return the plan in this file.

        Raises:
            InvalidInputError: It is damaged or from a newer release.
        """
        try:
            stored = json.loads(content)
            if stored["format"] != _FORMAT:
                raise ValueError(f"format {stored['format']}, this release reads {_FORMAT}")
            return cls(
                [InputFile(**file) for file in stored["inputs"]],
                pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored["schema"]))),
                [Part(**part) for part in stored["parts"]],
                stored["settings"],
            )
        except (ValueError, TypeError, KeyError, RecursionError, OSError, pa.ArrowException) as error:
            raise InvalidInputError(
                f"{source} can't be read as a plan ({error})",
                argument="output",
                advice="choose another output folder, or delete this one to start again",
            ) from error

    def check_same(self, inputs: Sequence[InputFile], settings: dict[str, Any], output: str) -> None:
        """Raise InvalidInputError unless this plan is for these inputs and settings."""
        different = [name for name in settings if self.settings.get(name) != settings[name]]
        if list(inputs) != self.inputs:
            different.append("input")
        if different:
            raise InvalidInputError(
                f"{output} was started with another {', '.join(different)}",
                argument="output",
                advice="repeat that call to finish it, choose another folder, or delete this one to start again",
            )


def make_plan(
    inputs: Sequence[InputFile], scanned: Sequence[Scanned], settings: dict[str, Any], rows_per_file: int
) -> Plan:
    """Return the plan for these files: each is cut into parts of `rows_per_file`, unless it is compressed lines."""
    parts: list[Part] = []
    for number, (file, content) in enumerate(zip(inputs, scanned, strict=True)):
        stem = _UNSAFE.sub("_", PurePosixPath(file.url).name.split(".")[0])[:60]
        size = content.rows if file.is_compressed else rows_per_file
        for i, start in enumerate(range(0, content.rows, size)):
            name = f"{len(parts):05d}-{stem}-{start:010d}.parquet"
            mark = content.marks[i] if content.marks else 0
            parts.append(Part(name, number, start, min(size, content.rows - start), mark))
    return Plan(list(inputs), joined_schema(scanned), parts, settings)
