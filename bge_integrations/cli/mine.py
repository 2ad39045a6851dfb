"""`bge mine`: find hard negatives for training rows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bge_integrations.cli import options, training_options
from bge_integrations.cli.output import counted, print_json, progress_is_shown, say
from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from bge_integrations.index import M3Index

#: Maximum number of short rows that are named.
_NAMED = 5


def mine(
    data: training_options.Rows,
    output: training_options.OutputFile,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Embedding model that ranks the passages.")] = None,
    index: Annotated[
        str | None, typer.Option(metavar="DIR", help="Mine from the passages of this index, instead of --model.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A .jsonl file with a text in each line. Defaults to all positives and negatives of DATA.",
        ),
    ] = None,
    negatives: Annotated[int, typer.Option(min=1, help="Number of negatives per row.")] = 15,
    rank_range: Annotated[
        str, typer.Option("--range", metavar="A-B", help="Candidates are the passages with ranks A to B-1, from 0.")
    ] = "10-210",
    mode: Annotated[
        Literal["dense", "hybrid"] | None, typer.Option(help="The score to rank by; hybrid needs bge-m3.")
    ] = None,
    weights: options.SearchWeights = None,
    min_score: Annotated[float | None, typer.Option(help="Drop candidates that score lower.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Drop candidates that score higher.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Drop candidates that do not score this much below the lowest positive of the query."),
    ] = None,
    relative_margin: Annotated[
        float | None, typer.Option(help="The same as a share: 0.05 drops candidates above 95% of the positive's score.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Reranker that drops candidates which may answer the query.")
    ] = None,
    judge_margin: Annotated[
        float, typer.Option(help="How far a candidate's logit must be below the lowest positive's.")
    ] = 1.0,
    sampling: Annotated[
        Literal["random", "top"], typer.Option(help="Draw from the candidates, or take the highest-ranked.")
    ] = "random",
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill rows that lack negatives with random passages of the corpus.")
    ] = False,
    query_instruction: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Prepended to queries. Defaults to the model's own.")
    ] = None,
    query_max_length: Annotated[int | None, typer.Option(min=1, help="Maximum tokens per query.")] = None,
    passage_max_length: Annotated[int | None, typer.Option(min=1, help="Maximum tokens per passage.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For all random choices.")] = 0,
    overwrite: training_options.Overwrite = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Replace the negatives of training rows by passages that a model ranks high, but that don't answer the query.

    FILE appears when it is complete.
    """
    if (model is None) == (index is None):
        raise InvalidInputError("either --model or --index is needed, and not both")
    first_and_end = _range(rank_range)
    chosen_weights = None if weights is None else options.parse_weights(weights)
    from bge_integrations.training.mining import mine_negatives
    from bge_integrations.training.outputs import check_new_file
    from bge_integrations.training.row_files import read_rows

    check_new_file(output, overwrite)
    rows = read_rows(data)
    with ExitStack() as stack:
        source: str | M3Index = model or ""
        if index is not None:
            from bge_integrations.index import M3Index

            source = stack.enter_context(M3Index.open(index, create=False, read_only=True, device=device, dtype=dtype))
        mined = mine_negatives(
            rows,
            source,
            output,
            corpus=corpus,
            negatives=negatives,
            rank_range=first_and_end,
            mode=mode,
            weights=chosen_weights,
            min_score=min_score,
            max_score=max_score,
            margin=margin,
            relative_margin=relative_margin,
            judge=judge,
            judge_margin=judge_margin,
            sampling=sampling,
            fill=fill,
            query_instruction=query_instruction,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            device=device,
            dtype=dtype,
            seed=seed,
            overwrite=overwrite,
            show_progress=progress_is_shown(quiet),
        )
    count = sum(len(row.neg) for row in mined.rows)
    short = [str(rows.locations[position]) for position in mined.short]
    if as_json:
        print_json(
            {
                "output": output,
                "rows": len(mined.rows),
                "negatives": count,
                "dropped": mined.dropped,
                "short": short,
                "filled": mined.filled,
            }
        )
        return
    dropped = ", ".join(f"{number} {reason}" for reason, number in sorted(mined.dropped.items()))
    rows_and_negatives = f"{counted(len(mined.rows), 'row')}, {counted(count, 'negative')}"
    print(f"{rows_and_negatives}; candidates dropped: {dropped or 'none'}")
    if short and not quiet:
        named = "; ".join(short[:_NAMED]) + ("; …" if len(short) > _NAMED else "")
        message = f"{len(short):,} of {counted(len(rows), 'row')} got fewer than {negatives} hard negatives ({named})"
        without = sum(not row.neg for row in mined.rows)
        if fill:
            message += f"; --fill added {counted(mined.filled, 'random negative')}"
        elif without:
            message += f", and {without:,} of them none; --fill adds random ones"
        say(message)


def _range(text: str) -> tuple[int, int]:
    first, _, end = text.partition("-")
    try:
        return int(first), int(end)
    except ValueError:
        raise InvalidInputError(f"--range {text} must be two ranks, such as 10-210") from None
