"""Print results to standard output, and everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

#: Maximum characters of the other columns if the last one is cut.
_WIDEST = 40


def print_json(row: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(row, ensure_ascii=False))


def print_table(rows: Iterable[Sequence[object]], header: Sequence[str] = (), cut: bool = False) -> None:
    """Print a table as wide as the terminal, or uncut tab-separated cells without a header to a pipe or file.

    Args:
        rows: Rows of cells; line breaks and tabs become spaces.
        header: Names of the columns; empty for no header.
        cut: Cut long cells instead of wrapping them, starting with the last column.
    """
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    if not cells or not sys.stdout.isatty():
        for line in cells:
            print("\t".join(line))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = box.SIMPLE_HEAD if header else None
    table = Table(box=style, show_edge=False, pad_edge=False, show_header=bool(header), expand=cut)
    columns = len(header or cells[0])
    for i in range(columns):
        name = header[i] if header else ""
        if not cut:
            table.add_column(name, overflow="fold")
        elif i < columns - 1:
            table.add_column(name, max_width=_WIDEST, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 row", "2,000 rows"."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def say(message: Any) -> None:
    """Print a note or an error to standard error, on one line."""
    print(f"bge: {' '.join(str(message).split())}", file=sys.stderr)


def progress_is_shown(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()
