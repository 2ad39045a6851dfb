"""`bge index --rows`: the rows of files as documents."""

from __future__ import annotations

import time
from typing import Any

from bge_integrations.cli.output import print_json, progress_is_shown
from bge_integrations.errors import InvalidInputError


def index_rows(
    inputs: str,
    index: str,
    model: str | None,
    field: str,
    id_field: str | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Add rows to an index.

    Args:
        inputs: Files, a folder, a pattern or a URL.
        index: The index.
        model: Its model.
        field, id_field: The columns with the texts and the ids.
        as_json, quiet: As in other commands.
        settings: Other arguments of `M3Index.open`.
    """
    from bge_integrations.index import M3Index
    from bge_integrations.jobs.indexing import RowFiles

    start = time.perf_counter()
    files = RowFiles(inputs, field, id_field)
    with M3Index.open(index, model, **settings) as opened:
        before = len(opened)
        try:
            files.add_to(opened, progress_is_shown(quiet))
        except KeyboardInterrupt:
            message = f"{index} contains {len(opened)} documents; run the same command again to finish"
            raise KeyboardInterrupt(message) from None
        summary: dict[str, float] = {"rows": files.rows, "added": len(opened) - before, "documents": len(opened)}
    summary["seconds"] = round(time.perf_counter() - start, 1)
    if as_json:
        print_json(summary)
    else:
        print("{rows} rows: {added} documents added, now {documents}; {seconds} s".format(**summary))


def check_options(
    rows: bool, vectors: bool, field: str | None, id_field: str | None, for_files: dict[str, Any]
) -> None:
    """Refuse options that would have no effect.

    Args:
        rows, vectors: Whether --rows and --vectors are given.
        field, id_field: The options for rows; None if they are not given.
        for_files: The options for files; falsy values are not given.
    """
    if rows and vectors:
        raise InvalidInputError("--rows and --vectors can't be used together", advice="leave one of them out")
    if (rows or vectors) and (given := [name for name, value in for_files.items() if value]):
        used = "--rows" if rows else "--vectors"
        raise InvalidInputError(f"{', '.join(given)} can't be used with {used}", advice="leave it out")
    if not rows and (field or id_field):
        raise InvalidInputError("--field and --id-field are for rows", advice="add --rows")
