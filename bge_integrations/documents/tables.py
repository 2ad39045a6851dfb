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

    The header is the first row with more than one cell, if none of them is a number. Rows before it, the rows of a
    sheet without a header, and a header without rows become "Panda; bamboo". Empty cells and rows are left out.
    """
    header: list[str] | None = None
    is_alone = False  # the header has no rows yet
    for row in rows:
        cells = [_one_line(cell) for cell in row]
        filled = [cell for cell in cells if cell]
        if header is None and len(filled) > 1:
            is_alone = not any(map(_is_number, filled))
            header = cells if is_alone else []
            if is_alone:
                continue
        if filled:
            is_alone = False
            names = [*(header or ()), *[""] * len(cells)]
            named = zip(names, cells, strict=False)
            yield "; ".join(f"{name}: {cell}" if name else cell for name, cell in named if cell)
    if header and is_alone:
        yield "; ".join(filter(None, header))


def _one_line(cell: str) -> str:
    return " ".join(cell.split())


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".").replace(" ", "").rstrip("%"))
    except ValueError:
        return False
    return True
