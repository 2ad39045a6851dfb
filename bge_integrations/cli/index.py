"""`bge index`: a folder's files into an index that follows them."""

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
        str, typer.Argument(metavar="FOLDER", help="Text, Markdown, HTML and PDF files, or one such file.")
    ],
    index: options.Index,
    model: Annotated[
        str | None,
        typer.Option(help="Of the bge-m3 family. Without it, the index's own; for a new index BAAI/bge-m3."),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make an index of a folder's files, or bring it up to date.

    Passages that have not changed cost no model run; those of files that changed or vanished are removed. The exit
    status is 3 if files could not be read.
    """
    from bge_integrations.index import M3Index

    start = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # unreadable files are named below
    folder = Path(path)
    _check_some_readable(find_files(folder))
    unreadable: list[UnreadableFileError] = []
    with M3Index.open(index, model, device=device, dtype=dtype, max_length=max_length) as opened:
        try:
            changes = follow_folder(
                opened, folder, on_unreadable=unreadable.append, show_progress=progress_is_shown(quiet)
            )
        except KeyboardInterrupt:
            message = f"{index} holds {len(opened)} passages. Run the same command again to finish"
            raise KeyboardInterrupt(message) from None
    for error in unreadable:
        say(f"left out: {error}")
    summary = {**asdict(changes), "left_out": len(unreadable), "seconds": round(time.perf_counter() - start, 1)}
    if as_json:
        print_json(summary)
    else:
        print(
            "{files} files, {passages} passages: {added} added, {unchanged} unchanged, {removed} removed; "
            "{left_out} files left out; {seconds} s".format(**summary)
        )
    if unreadable:
        raise typer.Exit(3)


def _check_some_readable(files: list[Path]) -> None:
    """Before an index is made: raise if no file can be read, and name each file with its error."""
    errors = []
    for file in files:
        try:
            read_file(file)
        except UnreadableFileError as error:
            errors.append(error)
        else:
            return
    for unreadable in errors:
        say(f"left out: {unreadable}")
    raise InvalidInputError("none of the files could be read; no index was made or changed")
