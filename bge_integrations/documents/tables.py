"""Write tables as text: Markdown for the tables of a document, and a line for each row of a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown; its first row is the header. Rows are filled up to the same length."""
    cleaned = [[_one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    cleaned = [row for row in cleaned if any(row)]
    width = max(map(len, cleaned), default=0)
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in cleaned]
    return "\n".join([*lines[:1], "|" + " --- |" * width, *lines[1:]]) if lines else ""


def row_lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the rows of a spreadsheet as lines that stand for themselves: "Animal: Panda; Food: bamboo".

    The header is the first row with more than one cell, if none of them is a number. Rows before it, and the rows of a
    sheet without a header, become "Panda; bamboo". Empty cells and rows are left out.
    """
    header: Sequence[str] | None = None
    for row in rows:
        cells = [_one_line(cell) for cell in row]
        filled = [cell for cell in cells if cell]
        if header is None and len(filled) > 1:
            header = () if any(map(_is_number, filled)) else cells
            if header:
                continue
        if not filled:
            continue
        names = [*(header or ()), *[""] * len(cells)]
        yield "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)


def _one_line(cell: str) -> str:
    return " ".join(cell.split())


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".").replace(" ", "").rstrip("%"))
    except ValueError:
        return False
    return True
