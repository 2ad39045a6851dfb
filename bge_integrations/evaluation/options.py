"""The options of the command: read, and checked before anything is loaded or measured, in the command's own words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.baseline import check_language, languages
from bge_integrations.evaluation.dataset import Dataset
from bge_integrations.evaluation.files import check_file, check_folder
from bge_integrations.evaluation.runs import check_trec_id
from bge_integrations.evaluation.tuning import check_enough_queries
from bge_integrations.scoring import Mode, Weights, weights_by_name
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder


def read_options(arguments: list[str] | None, program: str) -> argparse.Namespace:
    """What the arguments say; `search` has those for `evaluate`, by its names, and only where they are given.

    Raises:
        InvalidInputError: An option can't be used, or would have no effect.
    """
    options = _parser(program).parse_args(arguments)
    for option, model in (("--model", options.model), ("--reranker", options.reranker)):
        if model == "":
            raise InvalidInputError(f"{option} is empty; name a hub id, a folder, or pocket")
    options.search = {}
    if options.modes is not None:
        options.search["modes"] = _modes(options.modes)
    if options.weights is not None:
        options.search["weights"] = _weights(options.weights)
    if options.rerank_depth is not None:
        check_whole_number(options.rerank_depth, "--rerank-depth")
        options.search["rerank_depth"] = options.rerank_depth
    _check_effect(options)
    _check_language(options)
    _check_places(options)
    return options


def check_data_set(data: Dataset, options: argparse.Namespace) -> None:
    """Raise InvalidInputError where a data set can't have what the options ask for."""
    if options.tune:
        check_enough_queries(data)
    if not options.no_baseline:
        check_language(data, options.language or "english")
    if options.runs is not None:
        for key in (*data.judged, *data.documents):
            try:
                check_trec_id(key)
            except InvalidInputError as error:
                raise InvalidInputError(f"{data.name}: {error}, or leave --runs out") from error


def check_model(embedder: Embedder, options: argparse.Namespace) -> None:
    """Raise InvalidInputError where an embedder lacks what the options ask for."""
    if embedder.has_sparse:
        return
    for option, is_given in (
        ("--tune", options.tune),
        ("--weights", options.weights is not None),
        (f"--modes {options.modes}", options.search.get("modes", ["dense"]) != ["dense"]),
    ):
        if is_given:
            raise InvalidInputError(
                f"{option} needs sparse and multi-vector scores, which {embedder.name} does not have; leave it out, "
                "or name a --model that has them: BAAI/bge-m3, or pocket"
            )


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Measure retrieval on data sets in BEIR's layout.")
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="with corpus.jsonl, queries.jsonl and qrels/<split>.tsv")
    add("--model", required=True, help="embedding model: hub id, folder, or 'pocket'")
    add("--reranker", help="reranker: hub id, folder, or 'pocket'")
    add("--modes", help="dense,sparse,multi_vector,hybrid; without it, all that the model has")
    add("--weights", help="of dense, sparse and multi-vector scores in hybrid; without it, 1,1,1")
    add("--rerank-depth", type=int, help="documents per query that are reranked; without it, 50")
    add("--split", default="test", help="which of the qrels: test")
    add("--language", help="of BM25's stemmer and stop words; without it, english; cjk for Chinese, Japanese, Korean")
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


def _modes(text: str) -> list[Any]:
    modes = text.split(",")
    if not set(modes) <= set(get_args(Mode)) or len(set(modes)) != len(modes):
        raise InvalidInputError(
            f"--modes {text} must be some of {', '.join(get_args(Mode))}, each once, with commas between them"
        )
    return modes


def _weights(text: str) -> Weights:
    try:
        dense, sparse, multi_vector = map(float, text.split(","))
        weights_by_name((dense, sparse, multi_vector))
    except ValueError as error:  # InvalidInputError is one too
        raise InvalidInputError(
            f"--weights {text} must be three numbers with commas between them, none below 0 or huge, and one above 0: "
            "1,0.3,1"
        ) from error
    return dense, sparse, multi_vector


def _check_effect(options: argparse.Namespace) -> None:
    """No option may go without effect."""
    if options.tune and options.modes is not None:
        raise InvalidInputError("--tune needs the candidates of all modes; leave --modes out")
    if options.weights is not None and "hybrid" not in options.search.get("modes", ["hybrid"]):
        raise InvalidInputError("--weights is for hybrid, which --modes does not name; name it, or leave --weights out")
    if options.rerank_depth is not None and options.reranker is None:
        raise InvalidInputError("--rerank-depth needs a --reranker; name one, or leave --rerank-depth out")
    if options.language is not None and options.no_baseline:
        raise InvalidInputError("--language is BM25's, which --no-baseline leaves out; leave one of the two out")


def _check_language(options: argparse.Namespace) -> None:
    if options.language is not None and options.language not in languages():
        raise InvalidInputError(
            f"--language {options.language} is none of {', '.join(languages())}; take one of them, or leave BM25 out "
            "with --no-baseline"
        )


def _check_places(options: argparse.Namespace) -> None:
    """Whether everything can be written when it is measured."""
    places = [("--markdown", options.markdown, check_file), ("--runs", options.runs, check_folder)]
    if options.json != "-":
        places.append(("--json", options.json, check_file))
    for option, place, check in places:
        if place is not None:
            try:
                check(place)
            except InvalidInputError as error:
                raise InvalidInputError(f"{option}: {error}") from error
    paths = [Path(place).resolve() for _, place, _ in places if place is not None]
    if len(set(paths)) != len(paths):
        raise InvalidInputError("two of --json, --markdown and --runs have the same name; give each its own")
    names = [Path(folder).resolve().name for folder in options.folders]
    if options.runs is not None and len(set(names)) != len(names):
        raise InvalidInputError("two of the folders have the same name, so their runs would overwrite each other")
