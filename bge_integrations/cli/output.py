"""What the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(row: object) -> None:
    """One line of JSON."""
    print(json.dumps(row, ensure_ascii=False))


def print_table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> None:
    """A table cut to the terminal's width; into a pipe or a file, whole cells with tabs between and no header."""
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in cells:
            print("\t".join(line))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=bool(header))
    width = len(cells[0]) if cells else len(header)
    for i in range(width):
        table.add_column(header[i] if header else "", no_wrap=True, overflow="ellipsis")
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)


def say(message: Any) -> None:
    """A remark or an error, on one line."""
    print(f"bge: {' '.join(str(message).split())}", file=sys.stderr)


def progress_is_shown(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()
