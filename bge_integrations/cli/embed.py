"""`bge embed`: add vectors to the rows of a file; `embed_folder.py` has the part for many files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import progress_is_shown, say
from bge_integrations.errors import InvalidInputError
from bge_integrations.reporting import TruncatedTexts
from bge_integrations.validation import check_takes_images

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

    from bge_integrations.cli.partial import Columns, Writer
    from bge_integrations.cli.rows import Chunk, Rows
    from bge_integrations.core.embedder import Embedder
    from bge_integrations.outputs import Embeddings

_SUFFIXES = (".jsonl", ".parquet")
#: Rows encoded and written at a time; the multi-vectors of one row take megabytes.
_CHUNK, _CHUNK_WITH_MULTI_VECTORS = 256, 32
_FOLDER_OPTIONS = "Options for a folder as OUTPUT"


def embed(
    input: Annotated[
        str,
        typer.Argument(help="A .jsonl or .parquet file, - for JSONL from standard input; or a folder, pattern or URL."),
    ],
    output: Annotated[
        str,
        typer.Argument(help="A .jsonl or .parquet file, - for JSONL to standard output; or a folder or its URL."),
    ],
    model: options.Embedder = "BAAI/bge-m3",
    kind: Annotated[
        Literal["passage", "query", "none"], typer.Option(help="Which of the model's instructions to prepend.")
    ] = "passage",
    task: Annotated[str | None, typer.Option(help="Task, for some models; see `bge models --tasks`.")] = None,
    field: Annotated[str, typer.Option(help="Column that contains the texts.")] = "text",
    image_field: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with the paths of images, relative to INPUT's folder, for models that take images.",
        ),
    ] = None,
    sparse: Annotated[bool, typer.Option("--sparse", help="Also add lexical weights.")] = False,
    multi_vector: Annotated[bool, typer.Option("--multi-vector", help="Also add one vector per token.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace OUTPUT, and discard the rows of an unfinished run with other settings."
        ),
    ] = False,
    precision: Annotated[
        Literal["float32", "float16", "int8", "binary"],
        typer.Option(help="How dense vectors are stored; only in a folder.", rich_help_panel=_FOLDER_OPTIONS),
    ] = "float32",
    rows_per_file: Annotated[
        int, typer.Option(min=1, help="Maximum rows per file.", rich_help_panel=_FOLDER_OPTIONS)
    ] = 50_000,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Compute only this share of the files.", rich_help_panel=_FOLDER_OPTIONS)
    ] = "1/1",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only estimate time and size from a sample.", rich_help_panel=_FOLDER_OPTIONS),
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Price of the machine per hour, for --dry-run.", rich_help_panel=_FOLDER_OPTIONS),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Add embeddings to rows, as columns dense, sparse and multi_vector.

    A file becomes a file; finished rows are kept in OUTPUT.partial until all are done.
    If OUTPUT is a folder (write a / at the end of a new one), INPUT can be many files, and several processes can run
    the same command at once.
    To resume after an interruption, run the same command again.
    """
    if _is_folder(output):
        if overwrite:
            raise InvalidInputError("--overwrite is for files", advice="delete the folder to start again")
        if image_field is not None:
            raise InvalidInputError("--image-field needs a file as OUTPUT", advice="write a .jsonl or .parquet file")
        from bge_integrations.cli.embed_folder import embed_folder

        job: dict[str, Any] = {"inputs": input, "output": output, "model": model, "field": field, "task": task}
        job |= {"kind": None if kind == "none" else kind, "sparse": sparse, "multi_vector": multi_vector}
        job |= {"precision": precision, "rows_per_file": rows_per_file, "device": device, "dtype": dtype}
        embed_folder({**job, "max_length": max_length}, part, dry_run, price, as_json, quiet)
        return
    if (precision, part, dry_run) != ("float32", "1/1", False):
        raise InvalidInputError(
            "--precision, --part and --dry-run need a folder as OUTPUT", advice=f"write {output.split('.')[0]}/"
        )
    _check_files(input, output, overwrite)
    from bge_integrations.cli.rows import Fields, JsonLines, Parquet

    added = ["dense", *(["sparse"] if sparse else []), *(["multi_vector"] if multi_vector else [])]
    fields = Fields(field, image_field, Path() if input == "-" else Path(input).parent)
    rows = (Parquet if input.endswith(".parquet") else JsonLines)(input, fields, added)
    size = _CHUNK_WITH_MULTI_VECTORS if multi_vector else _CHUNK
    # check all rows before loading the model, so that errors are reported at once
    total = None if input == "-" else _checked(rows, size, input, not output.endswith(".parquet"))
    schema = rows.schema(size) if output.endswith(".parquet") else None
    from bge_integrations.core.loading import load_embedder

    with load_embedder(model, device=device, dtype=dtype, max_length=max_length, task=task) as embedder:
        if sparse or multi_vector:
            embedder.encode([], sparse=sparse, multi_vector=multi_vector)  # raises if the model does not support them
        if image_field is not None:
            check_takes_images(embedder)
        settings = _settings(rows, embedder, kind, fields.names, added)
        arguments: dict[str, Any] = {"sparse": sparse, "multi_vector": multi_vector}
        arguments["kind"] = None if kind == "none" else kind
        with closing(_writer(output, settings, schema, added, size, overwrite)) as writer:
            if writer.done and not quiet:
                say(f"resuming after {writer.done} rows")
            try:
                with TruncatedTexts(writer.done):
                    for chunk in _remaining(rows, size, writer.done, total, progress_is_shown(quiet)):
                        writer.write(chunk, _columns(embedder.encode(rows.inputs(chunk), **arguments)))
            except KeyboardInterrupt:
                if "-" in (input, output):
                    raise
                raise KeyboardInterrupt(f"run the same command again to resume from {output}.partial") from None
            writer.finish()


def _is_folder(output: str) -> bool:
    return output.endswith("/") or "://" in output or (Path(output).is_dir() and not output.endswith(_SUFFIXES))


def _check_files(input: str, output: str, overwrite: bool) -> None:
    if "://" in input or "*" in input or Path(input).is_dir():
        raise InvalidInputError(
            f"{input} is not one file on this machine", advice="pass a folder as OUTPUT, such as vectors/"
        )
    for file in (input, output):
        if file != "-" and not file.endswith(_SUFFIXES):
            raise typer.BadParameter(f"{file} must end with {' or '.join(_SUFFIXES)}, or be -")
    if input == "-" and output.endswith(".parquet"):
        raise InvalidInputError(
            "Parquet output can't be written from standard input", advice="save the input to a file, or write .jsonl"
        )
    if output == "-":
        return
    if Path(output).is_dir():
        raise InvalidInputError(f"{output} is a folder", advice="pass a file")
    if Path(output).exists() and not overwrite:
        raise InvalidInputError(f"{output} exists", advice="choose another file, or replace it with --overwrite")
    if input != "-" and Path(input).resolve() == Path(output).resolve():
        raise InvalidInputError("input and output are the same file", advice="choose another output")
    if not Path(output).absolute().parent.is_dir():
        raise InvalidInputError(f"the folder {Path(output).parent} does not exist", advice="create it first")


def _checked(rows: Rows, size: int, input: str, as_json: bool) -> int:
    """Read all rows and return their number; raise if a row is invalid, or can't be written as JSON."""
    from bge_integrations.cli.rows import as_rows, json_line

    read = 0
    for chunk in rows.chunks(size):
        if as_json:
            for number, row in enumerate(as_rows(chunk), start=read + 1):
                json_line(row, f"row {number} of {input}")
        read += len(chunk)
    return read


def _settings(rows: Rows, embedder: Embedder, kind: str, read: list[str], added: list[str]) -> dict[str, Any]:
    """Return all settings that the output depends on."""
    return {
        "input": rows.digest,
        "model": embedder.name,
        **embedder.vector_settings("query" if kind == "query" else "passage"),
        "kind": kind,
        "field": read[0] if len(read) == 1 else read,
        "columns": added,
    }


def _writer(
    output: str, settings: dict[str, Any], schema: pa.Schema | None, added: list[str], size: int, overwrite: bool
) -> Writer:
    from bge_integrations.cli.partial import LinesWriter, Partial, PartsWriter, StreamWriter

    if output == "-":
        return StreamWriter()
    partial = Partial(Path(output), settings, overwrite)
    return LinesWriter(partial, size) if schema is None else PartsWriter(partial, schema, added)


def _remaining(rows: Rows, size: int, done: int, total: int | None, shown: bool) -> Iterator[Chunk]:
    """Yield the chunks after the first `done` rows."""
    from bge_integrations.progress import progress_bar

    read = 0
    with progress_bar(None if total is None else total - done, "row", shown) as bar:
        for chunk in rows.chunks(size):
            read += len(chunk)
            if read > done:
                yield chunk
                bar.update(len(chunk))


def _columns(encoded: Embeddings) -> Columns:
    columns: Columns = {}
    if encoded.dense is not None:
        columns["dense"] = list(encoded.dense)
    if encoded.sparse is not None:
        columns["sparse"] = [row._asdict() for row in encoded.sparse]
    if encoded.multi_vector is not None:
        columns["multi_vector"] = [list(vectors) for vectors in encoded.multi_vector]
    return columns
