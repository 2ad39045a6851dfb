"""`bge index`: create an index of a folder's files, or update it."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, progress_is_shown, say
from bge_integrations.documents import find_files, read_file
from bge_integrations.documents.folder import follow_folder
from bge_integrations.errors import InvalidInputError, UnreadableFileError


def index(
    path: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder of text, Markdown, HTML and PDF files, or one such file.")
    ],
    index: options.Index,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model of the bge-m3 family. Defaults to the index's own model; for a new index, to BAAI/bge-m3."
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Create an index of a folder's files, or update it.

    Only new and changed passages are encoded, and deleted ones are removed.
    The exit status is 3 if files could not be read.
    """
    from bge_integrations.index import M3Index

    start = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # unreadable files are reported below
    folder = Path(path)
    _check_some_readable(find_files(folder))
    unreadable: list[UnreadableFileError] = []
    with M3Index.open(index, model, device=device, dtype=dtype, max_length=max_length) as opened:
        try:
            changes = follow_folder(
                opened, folder, on_unreadable=unreadable.append, show_progress=progress_is_shown(quiet)
            )
        except KeyboardInterrupt:
            message = f"{index} contains {len(opened)} passages; run the same command again to finish"
            raise KeyboardInterrupt(message) from None
    for error in unreadable:
        say(f"skipped: {error}")
    if changes.passed_over:
        say("not read: " + ", ".join(f"{count} {kind}" for kind, count in changes.passed_over.items()))
    summary = {**asdict(changes), "left_out": len(unreadable), "seconds": round(time.perf_counter() - start, 1)}
    if as_json:
        if not changes.passed_over:
            del summary["passed_over"]
        print_json(summary)
    else:
        print(
            "{files} files, {passages} passages: {added} added, {unchanged} unchanged, {removed} removed; "
            "{left_out} files skipped; {seconds} s".format(**summary)
        )
    if unreadable:
        raise typer.Exit(3)


def _check_some_readable(files: list[Path]) -> None:
    """Raise if none of the files can be read, after reporting each; called before an index is created."""
    errors = []
    for file in files:
        try:
            read_file(file)
        except UnreadableFileError as error:
            errors.append(error)
        else:
            return
    for unreadable in errors:
        say(f"skipped: {unreadable}")
    raise InvalidInputError("none of the files can be read; no index was created or changed")
