"""Measure retrieval on data sets in BEIR's layout: `python -m bge_integrations.evaluation FOLDER... --model MODEL`.

The tables, or the JSON with `--json -`, go to standard output, and progress to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import BGEError, InvalidInputError, TruncationWarning
from bge_integrations.evaluation.baseline import bm25
from bge_integrations.evaluation.dataset import Dataset
from bge_integrations.evaluation.files import write_text
from bge_integrations.evaluation.report import Report, evaluate
from bge_integrations.evaluation.tuning import Tuned, check_enough_queries, tune_weights

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.scoring import Weights


def main(arguments: list[str] | None = None) -> int:
    """Measure as the arguments say; the exit status is 0, or 1 after a mistake that is explained in one line."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TruncationWarning)
            run(arguments, "bge_integrations.evaluation")
        _repeat(caught)
    except (BGEError, OSError, ImportError) as error:
        print(f"evaluation: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def run(arguments: list[str] | None, program: str) -> None:
    """Measure as the arguments say, under the name of that program; mistakes are raised."""
    options = _parser(program).parse_args(arguments)
    from bge_integrations.core.embedder import load_embedder  # torch, which --help can do without
    from bge_integrations.core.reranker import load_reranker

    with ExitStack() as stack:
        _check(options)
        data_sets = [Dataset.read(folder, options.split) for folder in options.folders]
        if options.tune:
            for data in data_sets:
                check_enough_queries(data)
        embedder = stack.enter_context(load_embedder(options.model))
        reranker = stack.enter_context(load_reranker(options.reranker)) if options.reranker else None
        outcomes = [_measure(data, embedder, reranker, options) for data in data_sets]
    _write(outcomes, options)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Measure retrieval on data sets in BEIR's layout.")
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="with corpus.jsonl, queries.jsonl and qrels/<split>.tsv")
    add("--model", required=True, help="embedding model: hub id, folder, or 'pocket'")
    add("--reranker", help="reranker: hub id, folder, or 'pocket'")
    add("--modes", help="dense,sparse,multi_vector,hybrid; without it, all that the model has")
    add("--weights", default="1,1,1", help="of dense, sparse and multi-vector scores: 1,1,1")
    add("--rerank-depth", type=int, default=50, help="documents per query that are reranked: 50")
    add("--split", default="test", help="which of the qrels: test")
    add(
        "--language",
        default="english",
        help="of BM25's stemmer and stop words: english; cjk for Chinese, Japanese, Korean",
    )
    add("--no-baseline", action="store_true", help="leave BM25 out")
    add(
        "--tune",
        action="store_true",
        help="find hybrid weights on half of the queries, whatever --weights says, and measure them on the others",
    )
    add("--json", metavar="FILE", help="all figures as JSON; - writes them to standard output instead of the tables")
    add("--runs", metavar="FOLDER", help="one TREC run per data set and method")
    add("--markdown", metavar="FILE", help="the tables as Markdown")
    return parser


def _weights_of(text: str) -> Weights:
    try:
        dense, sparse, multi_vector = map(float, text.split(","))
    except ValueError as error:
        raise InvalidInputError(f"--weights {text} must be three numbers with commas between them: 1,0.3,1") from error
    return dense, sparse, multi_vector


def _check(options: argparse.Namespace) -> None:
    """What would only come out when everything is measured."""
    _weights_of(options.weights)
    if options.tune and options.modes:
        raise InvalidInputError("--tune needs the candidates of all modes; leave --modes out")
    for option, file in (("--json", options.json), ("--markdown", options.markdown)):
        if file and Path(file).is_dir():
            raise InvalidInputError(f"{option} {file} is a folder; name a file")
    if options.runs and Path(options.runs).exists() and not Path(options.runs).is_dir():
        raise InvalidInputError(f"--runs {options.runs} is a file; name a folder")
    names = [Path(folder).resolve().name for folder in options.folders]
    if options.runs and len(set(names)) != len(names):
        raise InvalidInputError("two of the folders have the same name, so their runs would overwrite each other")


def _measure(
    data: Dataset, embedder: Embedder, reranker: Reranker | None, options: argparse.Namespace
) -> tuple[Report, Tuned | None]:
    shown = sys.stderr.isatty()
    report = evaluate(
        data,
        embedder,
        modes=options.modes and options.modes.split(","),
        weights=_weights_of(options.weights),
        reranker=reranker,
        rerank_depth=options.rerank_depth,
        baseline=False if options.no_baseline else bm25(data, language=options.language, show_progress=shown),
        show_progress=shown,
    )
    return report, tune_weights(data, report.candidates, show_progress=shown) if options.tune else None


def _write(outcomes: list[tuple[Report, Tuned | None]], options: argparse.Namespace) -> None:
    text = json.dumps([_as_dict(*outcome) for outcome in outcomes], ensure_ascii=False, indent=2) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
    else:
        for report, tuned in outcomes:
            print(report)
            if tuned:
                print(_sentence(tuned))
        if options.json:
            write_text(options.json, text)
    if options.markdown:
        parts = [report.markdown() + (f"\n{_sentence(tuned)}\n" if tuned else "") for report, tuned in outcomes]
        write_text(options.markdown, "\n".join(parts))
    if options.runs:
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


def _repeat(caught: list[warnings.WarningMessage]) -> None:
    """The warnings of the run, those about texts that were cut as one."""
    if any(issubclass(warning.category, TruncationWarning) for warning in caught):
        print("evaluation: some texts were longer than the model's max_length and were cut", file=sys.stderr)
    for warning in caught:
        if not issubclass(warning.category, TruncationWarning):
            print(f"evaluation: {warning.message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
