"""`bge index --vectors`: an index of rows whose vectors `bge embed` has computed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from bge_integrations.cli.output import print_json, progress_is_shown
from bge_integrations.core.loading import load_embedder
from bge_integrations.index import M3Index
from bge_integrations.index.folder import IndexFiles
from bge_integrations.index.manifest import Manifest
from bge_integrations.jobs.embedded_rows import EmbeddedRows
from bge_integrations.progress import progress_bar


def index_vectors(
    inputs: str, index: str, model: str | None, multi_vectors: Any, settings: dict[str, Any], as_json: bool, quiet: bool
) -> None:
    """Add rows with vectors to an index, which is created if there is none.

    Args:
        inputs: Parquet files: a file, folder, pattern or URL.
        index: The folder of the index.
        model: The model of a new index; None uses the one that computed the vectors.
        multi_vectors: As for `M3Index.open`.
        settings: Keywords of `load_embedder`.
        as_json, quiet: As in other commands.
    """
    start = time.perf_counter()
    rows = EmbeddedRows(inputs)
    with ExitStack() as stack:
        opened = _open(index, rows, model, multi_vectors, settings, stack)
        with progress_bar(len(rows), "row", progress_is_shown(quiet)) as bar:
            for some in rows.documents(opened.embedder):
                opened.add(some.texts, some.ids, some.metadatas, embeddings=some.embeddings)
                bar.update(len(some.texts))
        summary = {"rows": len(rows), "documents": len(opened), "seconds": round(time.perf_counter() - start, 1)}
    if as_json:
        print_json(summary)
    else:
        print("{rows} rows; the index has {documents} documents; {seconds} s".format(**summary))


def _open(
    index: str, rows: EmbeddedRows, model: str | None, multi_vectors: Any, settings: dict[str, Any], stack: ExitStack
) -> M3Index:
    """Open the index; a new one is not created before the vectors turn out to fit."""
    files = IndexFiles(index)
    stored = files.manifest() if files.path.is_dir() else None
    if stored is not None:
        opened = stack.enter_context(M3Index.open(index, model, multi_vectors=multi_vectors, **settings))
        rows.check(opened.embedder, stored.stored)
        return opened
    embedder = stack.enter_context(load_embedder(model or rows.model, **settings))
    rows.check(embedder, Manifest.of(embedder, multi_vectors, None, in_folder=True).stored)
    return stack.enter_context(M3Index.open(index, embedder, multi_vectors=multi_vectors))
