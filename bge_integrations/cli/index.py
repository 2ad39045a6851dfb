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
from bge_integrations.errors import InvalidInputError, UnreadableFileError


def index(
    path: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of documents, spreadsheets, web pages, text and code files, or one such file.",
        ),
    ],
    index: options.Index,
    model: Annotated[
        str | None,
        typer.Option(help="Any embedding model. Defaults to the index's own model; for a new index, to BAAI/bge-m3."),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
    multi_vectors: Annotated[
        str | None,
        typer.Option(
            help="How a new index stores bge-m3's vectors of tokens: binary, int8, float16, float32 or recompute. "
            "Defaults to binary for bge-m3.",
        ),
    ] = None,
    passage_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens per passage. Defaults to 256, or the model's limit.")
    ] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(
            "--min-passage-tokens",
            min=0,
            help="Tokens that a passage should have at least. Defaults to a quarter of the maximum.",
        ),
    ] = None,
    overlap_tokens: Annotated[
        int | None,
        typer.Option(
            "--overlap",
            min=0,
            help="Tokens of a passage that the next one repeats. Defaults to an eighth of the maximum.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Read only files like '*.md' or 'guides/**'; can be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out files and folders like 'drafts/'; can be repeated."),
    ] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Also read linked folders.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Create an index of a folder's files, or update it.

    Only new and changed passages are encoded, and deleted ones are removed.
    The exit status is 3 if files could not be read.
    """
    from bge_integrations.documents import find_files
    from bge_integrations.documents.folder import follow_folder
    from bge_integrations.index import M3Index

    start = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # unreadable files are reported below
    folder = Path(path)
    patterns = {"include": include or [], "exclude": exclude or []}
    _check_some_readable(find_files(folder, **patterns, follow_links=follow_links))
    unreadable: list[UnreadableFileError] = []
    with M3Index.open(
        index,
        model,
        multi_vectors=multi_vectors,  # type: ignore[arg-type]  # checked there
        device=device,
        dtype=dtype,
        max_length=max_length,
    ) as opened:
        try:
            changes = follow_folder(
                opened,
                folder,
                passage_tokens=passage_tokens,
                min_tokens=min_tokens,
                overlap_tokens=overlap_tokens,
                **patterns,
                follow_links=follow_links,
                on_unreadable=unreadable.append,
                show_progress=progress_is_shown(quiet),
            )
        except KeyboardInterrupt:
            message = f"{index} contains {len(opened)} passages; run the same command again to finish"
            raise KeyboardInterrupt(message) from None
    for error in unreadable:
        say(f"skipped: {error}")
    if changes.passed_over:
        say("not read: " + ", ".join(f"{count} {kind}" for kind, count in changes.passed_over.items()))
    if changes.encoded_data:
        say(f"not text: {changes.encoded_data} of {changes.passages} passages are encoded data, such as Base64")
    summary = {**asdict(changes), "left_out": len(unreadable), "seconds": round(time.perf_counter() - start, 1)}
    if as_json:
        for name in ("passed_over", "encoded_data"):
            if not summary[name]:
                del summary[name]
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
    from bge_integrations.documents import read_file

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
