"""Read spreadsheets: a line for each row, with the names of its columns."""

from __future__ import annotations

import csv
import io
import re
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
#: What divides the cells of a file with one column: a character that is not in texts.
_NONE = "\x1f"
#: The first line of a file that names the delimiter, as Excel writes and reads it.
_NAMED_DELIMITER = re.compile(r'"?sep=([^\n"])"?\n', re.IGNORECASE)
#: Characters and rows that the delimiter is guessed from.
_SAMPLE_CHARACTERS, _SAMPLE_ROWS = 65536, 20
#: Guards the csv module's limit, which is one for the process.
_limit_lock = threading.Lock()


def read_csv(file: Path) -> Content:
    """Read comma-separated values; the delimiter may also be a semicolon, a tab or a vertical bar."""
    text = decode(read_bytes(file), file)
    with reading_as("CSV", file):
        if named := _NAMED_DELIMITER.match(text):
            text, delimiter = text[named.end() :], named[1]
        else:
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
            return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
        finally:
            csv.field_size_limit(before)


def _delimiter_of(sample: str) -> str:
    """Return the delimiter that divides most of the first rows into the same number of cells.

    If the first line has no delimiter and a space follows all the others, they are punctuation in a single column.
    """
    first_line, _, others = sample.lstrip().partition("\n")

    def rows_alike(delimiter: str) -> tuple[int, int]:
        if delimiter not in first_line and others.count(delimiter) == others.count(delimiter + " "):
            return 0, 0
        widths = Counter(len(row) for row in islice(_rows(sample, delimiter), _SAMPLE_ROWS) if row)
        width, rows = max(widths.items(), key=lambda item: item[1], default=(0, 0))
        return (rows, width) if width > 1 else (0, 0)

    alike, delimiter = max((rows_alike(delimiter), -i, delimiter) for i, delimiter in enumerate(_DELIMITERS))[::2]
    return delimiter if alike > (0, 0) else _NONE


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
