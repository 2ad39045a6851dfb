"""`bge rerank`: sort candidates from any source, best first."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, print_table, progress_is_shown
from bge_integrations.errors import InvalidInputError
from bge_integrations.lines import name_of, read_lines, read_rows

_FIELD = "text"


def rerank(
    query: Annotated[str, typer.Argument(help="The question.")],
    file: Annotated[str, typer.Argument(help="File of candidates, one per line; - is standard input.")] = "-",
    jsonl: Annotated[
        bool,
        typer.Option("--jsonl", help=f"Read lines as JSON objects with '{_FIELD}'; the default for *.jsonl files."),
    ] = False,
    model: options.Reranker = "BAAI/bge-reranker-v2-m3",
    top_n: Annotated[int | None, typer.Option(min=1, help="Number of candidates to print. Defaults to all.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
    cutoff_layers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Layerwise and lightweight rerankers: score after N layers."),
    ] = None,
    compress_ratio: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Lightweight reranker: merge every N neighbouring passage states; N is 2, 4 or 8."
        ),
    ] = None,
    compress_layers: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Layer before which states are merged; repeat the option for several layers. Defaults to 8.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="LLM rerankers: the instruction after the question and the candidate.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Sort candidates by their relevance to a question."""
    if not query.strip():
        raise InvalidInputError("the question is empty")
    rows: list[dict[str, Any]]
    if jsonl or file.endswith(".jsonl"):
        rows = list(read_rows(file, _FIELD))
    else:
        rows = [{_FIELD: line} for _, line in read_lines(file)]
    if as_json:
        _check_json(rows, name_of(file))
    from bge_integrations.core.loading import load_reranker
    from bge_integrations.scoring import select_best

    with load_reranker(
        model,
        device=device,
        dtype=dtype,
        max_length=max_length,
        cutoff_layers=cutoff_layers,
        compress_ratio=compress_ratio,
        compress_layers=compress_layers,
        prompt=prompt,
    ) as reranker:
        pairs = [(query, row[_FIELD]) for row in rows]
        scores = reranker.score(pairs, show_progress=progress_is_shown(quiet)).tolist()
    best = select_best(scores, top_n)
    if as_json:
        for rank, i in enumerate(best, start=1):
            print_json({**rows[i], "rank": rank, "score": scores[i]})
    else:
        print_table(((f"{scores[i]:+.3f}", rows[i][_FIELD]) for i in best), ("score", "text"), cut=True)


def _check_json(rows: list[dict[str, Any]], name: str) -> None:
    """Reject NaN and Infinity, which Python reads but JSON does not allow."""
    for number, row in enumerate(rows, start=1):
        try:
            json.dumps(row, allow_nan=False)
        except ValueError as error:
            raise InvalidInputError(
                f"row {number} of {name} can't be written as JSON ({error})", advice="use null"
            ) from error
