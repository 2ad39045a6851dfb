"""Embed the rows of many files into a folder of Parquet files, by any number of processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from bge_integrations.core.loading import load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.inputs import find_inputs
from bge_integrations.jobs.output import OutputFolder
from bge_integrations.jobs.plan import Part, Plan, make_plan
from bge_integrations.jobs.reading import read_tables, scan
from bge_integrations.jobs.vectors import METADATA_KEY, Precision, VectorColumns
from bge_integrations.progress import progress_bar
from bge_integrations.reporting import TruncatedTexts
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from datasets import Dataset

    from bge_integrations.core.embedder import Embedder, TextKind

#: Rows that are encoded at a time; the multi-vectors of one row take megabytes.
_ROWS, _ROWS_WITH_MULTI_VECTORS = 2048, 32
#: Seconds between looks at files that other processes are computing.
_WAIT = 1.0


@dataclass(frozen=True)
class JobReport:
    """What a call of `EmbeddingJob.run` did.

    Attributes:
        rows, files: Rows embedded and files written by this call.
        earlier_rows: Rows of this share that earlier calls or other processes finished.
        seconds: The time it took, without loading the model.
    """

    rows: int
    files: int
    earlier_rows: int
    seconds: float


class EmbeddingJob:
    """Embeds the rows of many files into a folder of Parquet files: the input's columns and the vectors.

    Several processes, on one machine or on several with a common file system, can run the same job at once. Each file
    of the output appears when it is complete, so the same job started again continues where it was interrupted.

    Example:
        >>> from pathlib import Path
        >>> from bge_integrations.jobs import EmbeddingJob
        >>> written = Path("rows.jsonl").write_text('{"text": "Pandas eat bamboo."}')
        >>> with EmbeddingJob("*.jsonl", "vectors", "BAAI/bge-m3", sparse=True) as job:
        ...     report = job.run()

    Args:
        inputs: Files, folders, patterns and URLs of .jsonl, .jsonl.gz, .parquet, .arrow and .feather files. Or a
            `datasets.Dataset`.
        output: A folder, or a URL such as s3://bucket/vectors. It is created if it is missing.
        model: An embedding model: hub id, folder, "pocket" or the URL of a server.
        field: The column that contains the texts.
        kind: Which of the model's instructions to prepend; None for neither.
        dense, sparse, multi_vector: The representations to compute.
        precision: How dense vectors are stored; see `jobs/vectors.py` for the columns.
        rows_per_file: Maximum rows per file of the output. A compressed .jsonl.gz becomes one file.
        part: (i, n): only this i-th of n shares of the files, from 1. For object stores, which have no locks, and
            machines without a common file system.
        settings: Keywords of `load_embedder`: device, dtype, max_length, …

    Attributes:
        embedder: The loaded model.
        plan: Which rows go into which file.

    Raises:
        InvalidInputError: An input or argument is invalid, or the folder was started with others.
    """

    def __init__(
        self,
        inputs: str | Sequence[str] | Dataset,
        output: str,
        model: str = "BAAI/bge-m3",
        *,
        field: str = "text",
        kind: TextKind | None = "passage",
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        precision: Precision = "float32",
        rows_per_file: int = 50_000,
        part: tuple[int, int] = (1, 1),
        **settings: Any,
    ) -> None:
        check_whole_number(rows_per_file, "rows_per_file")
        self._share = _checked_share(part)
        self._columns = VectorColumns(dense, sparse, multi_vector, precision)
        self._field = field
        self._kind = kind
        self._size = _ROWS_WITH_MULTI_VECTORS if multi_vector else _ROWS
        self._output = OutputFolder(output)
        found = [
            file for file in find_inputs(inputs) if file.dataset is not None or not self._output.contains(file.url)
        ]
        with self._output.planning() as stored:  # so that only one process reads all inputs
            known = None if stored is None else Plan.from_json(stored, f"{output}/_plan.json")
            # before the model is loaded, so that errors are reported at once
            scanned = [] if known else [scan(file, field, rows_per_file) for file in found]
            self.embedder: Embedder = load_embedder(model, **settings)
            try:
                chosen = self._settings(rows_per_file)
                self._added = self._columns.fields(self.embedder)
                if known is None:
                    known = make_plan(found, scanned, chosen, rows_per_file)
                    self._check_names(known.schema)
                    self._output.write_plan(known.to_json())
                else:
                    known.check_same(found, chosen, output)
            except BaseException:
                self.embedder.close()
                raise
        self.plan: Plan = known
        self._inputs = found
        note = json.dumps({**chosen, "model": self.embedder.name}, ensure_ascii=False).encode()
        self._schema = pa.schema([*known.schema, *self._added], metadata={METADATA_KEY: note})

    def __enter__(self) -> EmbeddingJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model. A second call does nothing."""
        self.embedder.close()

    @property
    def parts(self) -> list[Part]:
        """The parts of this process's share."""
        first, step = self._share
        return self.plan.parts[first - 1 :: step]

    def run(self, show_progress: bool = False) -> JobReport:
        """Compute all files of this share that nobody else is computing, and wait for those.

        After Ctrl-C or a kill, files in progress are lost, at most `rows_per_file` rows per process; the same call
        continues with the rest.
        """
        start = time.monotonic()
        total = sum(part.rows for part in self.parts)
        rows = files = 0
        with progress_bar(total, "row", show_progress) as bar, TruncatedTexts():
            while True:
                missing = self._missing()
                seen = total - sum(part.rows for part in missing)
                bar.n = bar.initial = max(bar.n, seen)
                computed = 0
                for part in missing:
                    with self._output.claim(part.name) as claimed:
                        if claimed and not self._output.is_finished(part.name):
                            self._compute(part, bar)
                            computed, rows, files = computed + 1, rows + part.rows, files + 1
                if not self._missing():
                    break
                if not computed:
                    time.sleep(_WAIT)
        if len(self._output.finished()) == len(self.plan.parts):
            self._output.remove_claims()
        return JobReport(rows, files, total - rows, time.monotonic() - start)

    def sample(self, parts: int = 8, rows: int = 64) -> Iterator[tuple[pa.Table, float]]:
        """Yield tables with vectors of a few rows each, spread over the input, and the seconds that each took."""
        chosen = self.plan.parts[:: max(1, len(self.plan.parts) // parts)][:parts]
        for part in chosen:
            start = time.monotonic()
            for table in self._tables(part, min(rows, part.rows)):
                yield self._with_vectors(table), time.monotonic() - start

    def _missing(self) -> list[Part]:
        finished = self._output.finished()
        return [part for part in self.parts if part.name not in finished]

    def _compute(self, part: Part, bar: Any) -> None:
        with (
            self._output.writer(part.name) as file,
            pq.ParquetWriter(file, self._schema, compression="zstd") as writer,
        ):
            for table in self._tables(part, part.rows):
                writer.write_table(self._with_vectors(table))
                bar.update(len(table))

    def _tables(self, part: Part, rows: int) -> Iterator[pa.Table]:
        file, schema = self._inputs[part.input], self.plan.schema
        return read_tables(file, self._field, schema, part.start, rows, part.mark, self._size)

    def _with_vectors(self, table: pa.Table) -> pa.Table:
        texts = table.column(self._field).to_pylist()
        arrays = self._columns.arrays(self._columns.encode(self.embedder, texts, self._kind))
        columns = [*table.columns, *(arrays[field.name].cast(field.type) for field in self._added)]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _settings(self, rows_per_file: int) -> dict[str, Any]:
        """Return all settings that the output depends on."""
        return {
            **self.embedder.vector_settings("query" if self._kind == "query" else "passage"),
            "kind": self._kind,
            "field": self._field,
            "representations": self._columns.representations,
            "precision": self._columns.precision,
            "rows_per_file": rows_per_file,
        }

    def _check_names(self, schema: pa.Schema) -> None:
        if taken := [field.name for field in self._added if field.name in schema.names]:
            raise InvalidInputError(
                f"the rows already have {' and '.join(taken)}",
                argument="inputs",
                advice="rename or remove that column",
            )


def _checked_share(part: tuple[int, int]) -> tuple[int, int]:
    try:
        first, count = part
        if 1 <= int(first) <= int(count):
            return int(first), int(count)
    except (TypeError, ValueError):
        pass
    raise InvalidInputError(
        f"part={part!r} is not a share of the job", argument="part", advice="pass (1, 4) for the first of four"
    )
