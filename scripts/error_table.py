"""Write the table of all errors and warnings, made from errors.py, to the page on troubleshooting."""

from __future__ import annotations

import inspect
from pathlib import Path

from bge_integrations import errors

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- the table of scripts/error_table.py -->\n", "<!-- its end -->\n"


def table() -> str:
    """Return the table: each class, what else it is, and when it is raised."""
    rows = ["| error or warning | is also a | when |", "|---|---|---|"]
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and kind.__module__ == errors.__name__:
            bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
            when = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
            rows.append(f"| [`{name}`](#{name.lower()}) | {bases} | {when} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
