"""`bge index`: a folder's files into an index that follows them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, progress_is_shown, say
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.reading import Passage, find_files, read_file, read_passages

if TYPE_CHECKING:
    from bge_integrations.index import M3Index

#: Passages that are compared with the index and added at a time.
_BATCH = 256
#: In the index's folder: what it is the index of.
_MADE_FROM = ".made_from"


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
    status is 3 where files could not be read.
    """
    from bge_integrations.index import M3Index
    from bge_integrations.progress import progress_bar

    start = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it can't read is named below
    folder = Path(path)
    files = find_files(folder)
    _check_some_readable(files)
    with M3Index.open(index, model, device=device, dtype=dtype, max_length=max_length) as opened:
        _check_same_folder(opened, folder, files)
        _remember(opened, folder)
        unreadable: list[UnreadableFileError] = []
        passages = read_passages(folder, opened.embedder, on_unreadable=unreadable.append)
        try:
            with progress_bar(len(files), "file", progress_is_shown(quiet)) as bar:
                summary = _follow(opened, passages, bar)
        except KeyboardInterrupt:
            told = f"{index} holds {len(opened)} passages. Run the same command again to finish"
            raise KeyboardInterrupt(told) from None
    for error in unreadable:
        say(f"left out: {error}")
    whole = {**summary, "left_out": len(unreadable), "seconds": round(time.perf_counter() - start, 1)}
    if as_json:
        print_json(whole)
    else:
        print(
            "{files} files, {passages} passages: {added} added, {unchanged} unchanged, {removed} removed; "
            "{left_out} files left out; {seconds} s".format(**whole)
        )
    if unreadable:
        raise typer.Exit(3)


def _check_some_readable(files: list[Path]) -> None:
    """Name all files and their errors where none can be read, before an index is made for them."""
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


def _check_same_folder(index: M3Index, folder: Path, files: list[Path]) -> None:
    """Refuse to remove passages because another folder or file was named."""
    record = Path(index.location, _MADE_FROM)
    if record.is_file():
        made_from = os.fsdecode(record.read_bytes())
        if made_from != str(folder.resolve()):
            raise InvalidInputError(
                f"{index.location} is the index of {made_from}, and indexing {folder} would remove passages from it. "
                f"Name another --index; if it is the same folder in a new place, delete {record} and run this again"
            )
        return
    # an index made in Python or on a server, or whose record was deleted
    here = {_source(file, folder) for file in files}
    there = {entry.metadata["source"] for entry in index.scan({"source": {"$exists": True}})}
    if there and not there & here:
        raise InvalidInputError(
            f"{index.location} is the index of another folder (with {min(there)}): indexing {folder} would remove all "
            "its passages. Name another --index, or delete that folder first"
        )


def _remember(index: M3Index, folder: Path) -> None:
    """Note in the index's folder what it is the index of; an index on a server has none."""
    if Path(index.location).is_dir():
        Path(index.location, _MADE_FROM).write_bytes(os.fsencode(folder.resolve()))


def _source(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if folder.is_dir() else file.name


def _follow(index: M3Index, passages: Iterator[Passage], bar: Any) -> dict[str, int]:
    """Add what is new, and then remove what is not among the passages."""
    seen: set[str] = set()
    sources: set[str] = set()
    unchanged = 0
    while batch := list(islice(passages, _BATCH)):
        stored = {(entry.id, entry.text) for entry in index.get(passage.id for passage in batch)}
        unchanged += sum((passage.id, passage.text) in stored for passage in batch)
        seen.update(index.add([p.text for p in batch], [p.id for p in batch], [p.metadata for p in batch]))
        sources.update(passage.source for passage in batch)
        bar.update(len(sources) - bar.n)
        bar.set_postfix_str(f"{len(seen)} passages")
    if not seen:
        raise InvalidInputError("none of the files could be read; the index holds what it held")
    stale = [entry.id for entry in index.scan({"source": {"$exists": True}}) if entry.id not in seen]
    removed = index.delete(stale)
    return {
        "files": len(sources),
        "passages": len(seen),
        "added": len(seen) - unchanged,
        "unchanged": unchanged,
        "removed": removed,
    }
