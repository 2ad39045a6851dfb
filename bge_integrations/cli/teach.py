"""`bge teach`: add rerankers' scores to training rows."""

from __future__ import annotations

from typing import Annotated

import typer

from bge_integrations.cli import options, training_options
from bge_integrations.cli.output import counted, print_json, progress_is_shown


def teach(
    data: training_options.Rows,
    rerankers: Annotated[
        list[str],
        typer.Option("--reranker", metavar="MODEL", help="Reranker; repeat the option to average several."),
    ],
    output: training_options.OutputFile,
    weights: training_options.ModelWeights = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Write the sigmoid of the logits, between 0 and 1: a weaker teacher.")
    ] = False,
    max_length: options.MaxLength = None,
    overwrite: training_options.Overwrite = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Score each row's positives and negatives with rerankers, for training with a teacher.

    FILE has all rows with pos_scores and neg_scores, which are logits. It appears when it is complete.
    """
    numbers = training_options.parse_numbers(weights)
    from bge_integrations.training.teaching import teacher_scores

    rows = teacher_scores(
        data,
        rerankers,
        output,
        weights=numbers,
        normalize=normalize,
        max_length=max_length,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
        show_progress=progress_is_shown(quiet),
    )
    texts = sum(len(row.pos) + len(row.neg) for row in rows)
    without = sum(not row.neg for row in rows)
    if as_json:
        print_json({"output": output, "rows": len(rows), "scores": texts, "rows_without_negatives": without})
    else:
        note = f"; {counted(without, 'row')} without negatives, whose scores teach nothing" if without else ""
        print(f"{counted(len(rows), 'row')}, {counted(texts, 'score')}{note}")
