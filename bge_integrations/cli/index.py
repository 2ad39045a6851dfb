"""`bge index`: create an index of a folder's files, or update it."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.index_rows import check_options, index_rows
from bge_integrations.cli.output import print_json, progress_is_shown, say
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.validation import check_takes_images

_ROW_OPTIONS = "Options for rows"


def index(
    path: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of documents, spreadsheets, web pages, text and code files, or one such file. If the model "
            "takes images, also of pictures. With --rows, files of rows; with --vectors, Parquet files.",
        ),
    ],
    index: options.Index,
    vectors: Annotated[
        bool,
        typer.Option(
            "--vectors",
            help="FOLDER is a Parquet file, folder or pattern with vectors that `bge embed` has computed; each row "
            "becomes a document.",
        ),
    ] = False,
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
    rows: Annotated[
        bool,
        typer.Option(
            "--rows",
            help="Each row of .jsonl, .parquet and .arrow files becomes a document. FOLDER can also be a file, a "
            "pattern or a URL such as s3://bucket/rows.",
            rich_help_panel=_ROW_OPTIONS,
        ),
    ] = False,
    field: Annotated[
        str | None, typer.Option(help="Column that contains the texts: text by default.", rich_help_panel=_ROW_OPTIONS)
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(
            help="Column that contains the ids. By default, they are derived from the rows.",
            rich_help_panel=_ROW_OPTIONS,
        ),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Create an index of a folder's files, or update it.

    Only new and changed passages are encoded, and deleted ones are removed.
    With --vectors, rows are added with the vectors they have. With --rows or --vectors, nothing is removed.
    The exit status is 3 if files could not be read.
    """
    patterns = {"include": include or [], "exclude": exclude or []}
    sizes = {"--passage-tokens": passage_tokens, "--min-passage-tokens": min_tokens, "--overlap": overlap_tokens}
    for_files = {**sizes, "--include": include, "--exclude": exclude, "--follow-links": follow_links}
    check_options(rows, vectors, field, id_field, for_files)
    settings: dict[str, Any] = {"device": device, "dtype": dtype, "max_length": max_length}
    if vectors:
        from bge_integrations.cli.index_vectors import index_vectors

        index_vectors(path, index, model, multi_vectors, settings, as_json, quiet)
        return
    settings["multi_vectors"] = multi_vectors
    if rows:
        index_rows(path, index, model, field or "text", id_field, as_json, quiet, **settings)
        return
    from bge_integrations.core.loading import load_embedder
    from bge_integrations.documents.finding import survey
    from bge_integrations.documents.folder import follow_folder
    from bge_integrations.index import M3Index
    from bge_integrations.index.opening import DEFAULT_MODEL

    start = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # unreadable files are reported below
    folder = Path(path)
    found = survey(folder, **patterns, follow_links=follow_links, pictures=True)
    has_text = _check_some_readable(found.files)
    unreadable: list[UnreadableFileError] = []
    with ExitStack() as stack:
        if not has_text and _is_new(index):
            embedder = stack.enter_context(load_embedder(model or DEFAULT_MODEL, device=device, dtype=dtype))
            if not embedder.takes_images:
                say(f"only pictures can be read in {path}")
            check_takes_images(embedder)
        opened = stack.enter_context(M3Index.open(index, model, **settings))
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


def _check_some_readable(files: list[Path]) -> bool:
    """Raise if none of the files can be read, after reporting each; called before an index is created.

    Return whether one of those that are not pictures can be read.
    """
    from bge_integrations.documents import read_file
    from bge_integrations.documents.pictures import check_picture, is_picture

    errors = []
    for file in sorted(files, key=is_picture):  # pictures last
        try:
            check_picture(file) if is_picture(file) else read_file(file)
        except UnreadableFileError as error:
            errors.append(error)
        else:
            return not is_picture(file)
    for unreadable in errors:
        say(f"skipped: {unreadable}")
    raise InvalidInputError("none of the files can be read; no index was created or changed")


def _is_new(index: str) -> bool:
    from bge_integrations.index.folder import IndexFiles

    files = IndexFiles(index)
    return not files.path.is_dir() or files.manifest() is None
