"""Measure retrieval on data sets in BEIR's layout: `python -m bge_integrations.evaluation FOLDER... --model MODEL`.

The tables, or the JSON with `--json -`, go to standard output, and progress to standard error.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import BGEError, InvalidInputError, TruncationWarning, WrongKindError
from bge_integrations.evaluation.baseline import bm25
from bge_integrations.evaluation.dataset import Dataset
from bge_integrations.evaluation.files import write_text
from bge_integrations.evaluation.options import check_data_set, check_model, read_options
from bge_integrations.evaluation.report import Report, evaluate
from bge_integrations.evaluation.tuning import Tuned, tune_weights
from bge_integrations.interrupts import exit_status

if TYPE_CHECKING:
    import argparse

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.reranker import Reranker


def main(arguments: list[str] | None = None) -> int:
    """Measure as the arguments say.

    Returns:
        The exit status: 0, 1 after a mistake that is explained in one line, 130 after Ctrl-C, 141 where the reader of
        the output has gone.
    """
    try:
        with exit_status("evaluation: interrupted") as ended:
            with warnings.catch_warnings(record=True) as caught:
                run(arguments, "bge_integrations.evaluation")
            sys.stdout.flush()  # the tables come before the warnings
            for warning in caught:
                print(f"evaluation: {warning.message}", file=sys.stderr)
    except (BGEError, OSError, ImportError) as error:
        print(f"evaluation: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return ended.status


def run(arguments: list[str] | None, program: str) -> None:
    """Measure as the arguments say, under the name of that program; mistakes are raised."""
    options = read_options(arguments, program)
    data_sets = [Dataset.read(folder, options.split) for folder in options.folders]
    for data in data_sets:
        check_data_set(data, options)
    with ExitStack() as stack:
        embedder = stack.enter_context(_load_embedder(options.model))
        check_model(embedder, options)
        reranker = None if options.reranker is None else stack.enter_context(_load_reranker(options.reranker))
        outcomes = []
        try:
            for data in data_sets:
                outcomes.append(_measure(data, embedder, reranker, options))
        finally:  # what was measured is not lost to a later data set's mistake
            if outcomes:
                _write(outcomes, options)


def _load_embedder(model: str) -> Embedder:
    from bge_integrations.core.loading import load_embedder  # torch, which --help can do without

    try:
        return load_embedder(model)
    except WrongKindError as error:
        raise InvalidInputError(
            f"--model {model} is a reranker; name it with --reranker, and an embedding model with --model"
        ) from error


def _load_reranker(model: str) -> Reranker:
    from bge_integrations.core.loading import load_reranker

    try:
        return load_reranker(model)
    except WrongKindError as error:
        raise InvalidInputError(
            f"--reranker {model} is no reranker; name a reranker, or leave --reranker out"
        ) from error


def _measure(
    data: Dataset, embedder: Embedder, reranker: Reranker | None, options: argparse.Namespace
) -> tuple[Report, Tuned | None]:
    shown = sys.stderr.isatty()
    language = options.language or "english"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        report = evaluate(
            data,
            embedder,
            reranker=reranker,
            baseline=not options.no_baseline and bm25(data, language=language, show_progress=shown),
            show_progress=shown,
            **options.search,
        )
        tuned = tune_weights(data, report.candidates, show_progress=shown) if options.tune else None
    _repeat(caught, data)
    return report, tuned


def _write(outcomes: list[tuple[Report, Tuned | None]], options: argparse.Namespace) -> None:
    text = json.dumps([_as_dict(*outcome) for outcome in outcomes], ensure_ascii=False, indent=2) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
    else:
        for report, tuned in outcomes:
            print(report)
            if tuned:
                print(_sentence(tuned))
        if options.json is not None:
            write_text(options.json, text)
    if options.markdown is not None:
        parts = [report.markdown() + (f"\n{_sentence(tuned)}\n" if tuned else "") for report, tuned in outcomes]
        write_text(options.markdown, "\n".join(parts))
    if options.runs is not None:
        for report, _ in outcomes:
            report.save_runs(Path(options.runs) / report.about["data"]["name"])


def _as_dict(report: Report, tuned: Tuned | None) -> dict[str, Any]:
    if tuned is None:
        return {**report.to_dict(), "tuned": None}
    others = {"default": tuned.held_out_default} | {str(mode): result for mode, result in tuned.held_out_modes.items()}
    return {
        **report.to_dict(),
        "tuned": {
            "measure": tuned.measure,
            "weights": list(tuned.weights),
            "train": tuned.train.means,
            "held_out": tuned.held_out.means,
            "held_out_others": {name: result.means for name, result in others.items()},
            "comparison": asdict(tuned.comparison),
        },
    }


def _sentence(tuned: Tuned) -> str:
    against = tuned.comparison
    lower, upper = against.interval
    alone = ", ".join(f"{mode} {result.means[tuned.measure]:.3f}" for mode, result in tuned.held_out_modes.items())
    weights = ", ".join(f"{weight:g}" for weight in tuned.weights)
    return (
        f"Weights found on half of the queries: {weights}. {tuned.measure} on the others: "
        f"{tuned.held_out.means[tuned.measure]:.3f}; with 1, 1, 1 {tuned.held_out_default.means[tuned.measure]:.3f} "
        f"(difference {against.difference:+.3f} [{lower:+.3f}, {upper:+.3f}], p = {against.p_value:.3f}); {alone}."
    )


def _repeat(caught: list[warnings.WarningMessage], data: Dataset) -> None:
    """The warnings about a data set, those about texts that were cut as one, which names it."""
    if any(issubclass(warning.category, TruncationWarning) for warning in caught):
        warnings.warn(f"{data.name}: some texts were longer than the model's max_length and were cut", stacklevel=2)
    for warning in caught:
        if not issubclass(warning.category, TruncationWarning):
            warnings.warn(warning.message, stacklevel=2)


if __name__ == "__main__":
    sys.exit(main())
