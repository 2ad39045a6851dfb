"""`bge rerank`: candidates of any origin, best first."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.lines import name_of, read_lines, read_rows
from bge_integrations.cli.output import print_json, print_table, progress_is_shown
from bge_integrations.errors import InvalidInputError

_FIELD = "text"


def rerank(
    query: Annotated[str, typer.Argument(help="The question.")],
    file: Annotated[str, typer.Argument(help="Candidates, one a line; - is standard input.")] = "-",
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help=f"The lines are JSON objects with '{_FIELD}'; so are those of *.jsonl.")
    ] = False,
    model: options.Reranker = "BAAI/bge-reranker-v2-m3",
    top_n: Annotated[int | None, typer.Option(min=1, help="How many to keep. Without it, all.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
    cutoff_layers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Layerwise and lightweight rerankers: score after so many layers."),
    ] = None,
    compress_ratio: Annotated[
        int | None,
        typer.Option(metavar="N", help="Lightweight reranker: 2, 4 or 8 states of a passage become one."),
    ] = None,
    compress_layers: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Before which layers that happens; may be given several times. Without it, 8."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Of a language model: what it is asked behind question and candidate.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Order candidates by how relevant they are to a question."""
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
    places = select_best(scores, top_n)
    if as_json:
        for rank, place in enumerate(places, start=1):
            print_json({**rows[place], "rank": rank, "score": scores[place]})
    else:
        print_table(((f"{scores[place]:+.3f}", rows[place][_FIELD]) for place in places), ("score", "text"), cut=True)


def _check_json(rows: list[dict[str, Any]], name: str) -> None:
    """Refuse what was read but is no JSON: NaN and Infinity."""
    for number, row in enumerate(rows, start=1):
        try:
            json.dumps(row, allow_nan=False)
        except ValueError as error:
            raise InvalidInputError(f"row {number} of {name} can't be written as JSON ({error}); use null") from error
