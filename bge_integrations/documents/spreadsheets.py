"""Read spreadsheets: a line for each row, with the names of its columns."""

from __future__ import annotations

import csv
import io
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

from bge_integrations.documents.archives import check_archive
from bge_integrations.documents.content import Content, Part, read_bytes, reading_as
from bge_integrations.documents.encodings import decode
from bge_integrations.documents.tables import row_lines
from bge_integrations.optional import import_library

_DELIMITERS = ",;\t|"
#: Characters and rows that the delimiter is guessed from.
_SAMPLE_CHARACTERS, _SAMPLE_ROWS = 65536, 20
#: Guards the csv module's limit, which is one for the process.
_limit_lock = threading.Lock()


def read_csv(file: Path) -> Content:
    """Read comma-separated values; the delimiter may also be a semicolon, a tab or a vertical bar."""
    text = decode(read_bytes(file), file)
    with reading_as("CSV", file):
        delimiter = "\t" if file.suffix.lower() == ".tsv" else _delimiter_of(text[:_SAMPLE_CHARACTERS])
        return Content([Part("\n".join(row_lines(_rows(text, delimiter))))], layout="rows")


def read_xlsx(file: Path) -> Content:
    """Read the sheets of an Excel workbook; formulas by their last results."""
    library = import_library("openpyxl", "files", "reading .xlsx files")
    with reading_as("an Excel workbook", file):
        check_archive(file, "an Excel workbook")
        workbook = library.load_workbook(file, read_only=True, data_only=True)
        try:
            parts = [
                Part("\n".join(row_lines(_sheet_rows(sheet))), number, sheet.title)
                for number, sheet in enumerate(workbook.worksheets, start=1)
            ]
            title = str(workbook.properties.title or "").strip()
        finally:
            workbook.close()
    return Content(parts, title, layout="rows")


def _rows(text: str, delimiter: str) -> list[list[str]]:
    with _limit_lock:
        before = csv.field_size_limit(max(len(text), 1))
        try:
            return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        finally:
            csv.field_size_limit(before)


def _delimiter_of(sample: str) -> str:
    """Return the delimiter that divides most of the first rows into the same number of cells."""

    def rows_alike(delimiter: str) -> tuple[int, int]:
        widths = Counter(len(row) for row in islice(_rows(sample, delimiter), _SAMPLE_ROWS) if row)
        width, rows = max(widths.items(), key=lambda item: item[1], default=(0, 0))
        return (rows, width) if width > 1 else (0, 0)

    return max(_DELIMITERS, key=rows_alike)


def _sheet_rows(sheet: Any) -> Iterator[list[str]]:
    sheet.reset_dimensions()  # files often claim more rows and columns than they have
    for row in sheet.iter_rows(values_only=True):
        yield ["" if value is None else _shown(value) for value in row]


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)
