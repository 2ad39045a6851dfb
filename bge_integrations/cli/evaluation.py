"""`bge eval`: measure retrieval on data sets in BEIR's layout."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import progress_is_shown, say
from bge_integrations.errors import InvalidInputError, TruncationWarning, WrongKindError, WrongModelError

if TYPE_CHECKING:
    from bge_integrations.cli.evaluation_options import EvaluationOptions
    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.evaluation import Dataset, Report, Tuned
    from bge_integrations.index import M3Index


def evaluate(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER", help="Data set folders with corpus.jsonl, queries.jsonl and qrels/<split>.tsv."
        ),
    ],
    model: options.Embedder,
    reranker: options.OptionalReranker = None,
    modes: Annotated[
        str | None,
        typer.Option(help="Search modes: dense,sparse,multi_vector,hybrid. Defaults to all that the model has."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of the dense, sparse and multi-vector scores in hybrid. Defaults to 1,1,1."),
    ] = None,
    rerank_depth: Annotated[
        int | None, typer.Option(help="Number of documents to rerank per query. Defaults to 50.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which qrels file to use.")] = "test",
    language: Annotated[
        str | None,
        typer.Option(
            help="Language of BM25's stemmer and stop words; cjk for Chinese, Japanese and Korean. Defaults to english."
        ),
    ] = None,
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="Skip BM25.")] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Tune the hybrid weights on half of the queries, and measure them on the other half."
        ),
    ] = False,
    save_to: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Keep the tuned weights in this index, as the defaults of its searches."),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all figures as JSON; - prints them instead of the tables."),
    ] = None,
    runs: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write one TREC run per data set and method.")
    ] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Write the tables as Markdown.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Measure how well models find the documents of data sets in BEIR's layout: nDCG@10, Recall@100, MRR@10 and MAP."""
    from bge_integrations.cli.evaluation_options import EvaluationOptions
    from bge_integrations.evaluation import Dataset

    given = EvaluationOptions(
        folders=folders,
        model=model,
        reranker=reranker,
        modes=modes,
        weights=weights,
        rerank_depth=rerank_depth,
        split=split,
        language=language,
        no_baseline=no_baseline,
        tune=tune,
        save_to=save_to,
        json=json_file,
        runs=runs,
        markdown=markdown,
        device=device,
        dtype=dtype,
    )
    data_sets = [Dataset.read(folder, split) for folder in folders]
    for data in data_sets:
        given.check_data_set(data)
    with ExitStack() as stack:
        embedder = stack.enter_context(_load_embedder(given))
        given.check_embedder(embedder)
        if save_to is not None:
            _open_index(save_to, given, embedder).close()  # so that a mistake shows before the measuring
        loaded_reranker = stack.enter_context(_load_reranker(reranker, given)) if reranker else None
        outcomes = []
        try:
            for data in data_sets:
                outcomes.append(_measure(data, embedder, loaded_reranker, given))
        finally:  # keep the results of earlier data sets if a later one fails
            if outcomes:
                _write(outcomes, given)
        if save_to is not None and (tuned := outcomes[0][1]):
            with _open_index(save_to, given, embedder) as index:
                index.set_defaults(weights=tuned.weights)
            say(f"{save_to} keeps these weights now; its searches use them")


def _open_index(folder: str, given: EvaluationOptions, embedder: Embedder) -> M3Index:
    """Open the index that the tuned weights are for.

    Raises:
        WrongModelError: It was made with another model than the evaluated one.
    """
    from bge_integrations.index import M3Index

    index = M3Index.open(folder, create=False, device=given.device, dtype=given.dtype)
    if index.embedder.weights_digest != embedder.weights_digest:
        made_with = index.embedder.name
        index.close()
        raise WrongModelError(
            f"--save-to: the index in {folder} was made with {made_with}, not with {embedder.name}",
            advice=f"pass --model {made_with}",
        )
    return index


def _load_embedder(given: EvaluationOptions) -> Embedder:
    from bge_integrations.core.loading import load_embedder

    try:
        return load_embedder(given.model, device=given.device, dtype=given.dtype)
    except WrongKindError as error:
        raise InvalidInputError(
            f"--model {given.model} is a reranker",
            advice="pass it as --reranker, and an embedding model as --model",
        ) from error


def _load_reranker(name: str, given: EvaluationOptions) -> Reranker:
    from bge_integrations.core.loading import load_reranker

    try:
        return load_reranker(name, device=given.device, dtype=given.dtype)
    except WrongKindError as error:
        raise InvalidInputError(
            f"--reranker {name} is not a reranker", advice="pass a reranker, or leave --reranker out"
        ) from error


def _measure(
    data: Dataset, embedder: Embedder, reranker: Reranker | None, given: EvaluationOptions
) -> tuple[Report, Tuned | None]:
    from bge_integrations import evaluation

    shown = progress_is_shown(quiet=False)
    language = given.language or "english"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        report = evaluation.evaluate(
            data,
            embedder,
            reranker=reranker,
            baseline=not given.no_baseline and evaluation.bm25(data, language=language, show_progress=shown),
            show_progress=shown,
            **given.search,
        )
        tuned = evaluation.tune_weights(data, report.candidates, show_progress=shown) if given.tune else None
    _warn(caught, data)
    return report, tuned


def _warn(caught: list[warnings.WarningMessage], data: Dataset) -> None:
    """Repeat the warnings of a data set, but merge those about truncation into one that names the data set."""
    if any(issubclass(warning.category, TruncationWarning) for warning in caught):
        warnings.warn(f"{data.name}: some texts were longer than the model's maximum and were truncated", stacklevel=2)
    for warning in caught:
        if not issubclass(warning.category, TruncationWarning):
            warnings.warn(warning.message, stacklevel=2)


def _write(outcomes: list[tuple[Report, Tuned | None]], given: EvaluationOptions) -> None:
    from bge_integrations.evaluation.files import write_text

    text = json.dumps([_as_dict(*outcome) for outcome in outcomes], ensure_ascii=False, indent=2) + "\n"
    if given.json == "-":
        sys.stdout.write(text)
    else:
        for report, tuned in outcomes:
            print(report)
            if tuned:
                print(_sentence(tuned))
        if given.json is not None:
            write_text(given.json, text)
    if given.markdown is not None:
        parts = [report.markdown() + (f"\n{_sentence(tuned)}\n" if tuned else "") for report, tuned in outcomes]
        write_text(given.markdown, "\n".join(parts))
    if given.runs is not None:
        for report, _ in outcomes:
            report.save_runs(Path(given.runs) / report.about["data"]["name"])
    sys.stdout.flush()  # print the tables before the warnings


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
    comparison = tuned.comparison
    lower, upper = comparison.interval
    alone = ", ".join(f"{mode} {result.means[tuned.measure]:.3f}" for mode, result in tuned.held_out_modes.items())
    weights = ", ".join(f"{weight:g}" for weight in tuned.weights)
    return (
        f"Weights tuned on half of the queries: {weights}. {tuned.measure} on the other half: "
        f"{tuned.held_out.means[tuned.measure]:.3f}; with 1, 1, 1 {tuned.held_out_default.means[tuned.measure]:.3f} "
        f"(difference {comparison.difference:+.3f} [{lower:+.3f}, {upper:+.3f}], p = {comparison.p_value:.3f}); "
        f"{alone}."
    )
