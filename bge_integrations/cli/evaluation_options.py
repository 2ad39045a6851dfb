"""The options of `bge eval`: parsed and checked before anything is loaded or measured."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class EvaluationOptions:
    """What the user asked for; None if an option was not given.

    Raises:
        InvalidInputError: An option can't be used, or would have no effect.
    """

    folders: list[str]
    model: str
    reranker: str | None
    modes: str | None
    weights: str | None
    rerank_depth: int | None
    split: str
    language: str | None
    no_baseline: bool
    tune: bool
    json: str | None
    runs: str | None
    markdown: str | None
    device: list[str] | None
    dtype: str | None

    def __post_init__(self) -> None:
        modes = self.search.get("modes", ["hybrid"])
        if self.tune and self.modes is not None:
            raise InvalidInputError("--tune needs the candidates of all modes; leave --modes out")
        if self.weights is not None and "hybrid" not in modes:
            raise InvalidInputError("--weights is for hybrid, which --modes leaves out; add it, or leave --weights out")
        if self.rerank_depth is not None and self.reranker is None:
            raise InvalidInputError("--rerank-depth needs a --reranker; name one, or leave --rerank-depth out")
        if self.language is not None and self.no_baseline:
            raise InvalidInputError("--language is for BM25, which --no-baseline leaves out; leave one of the two out")
        if self.language is not None and self.language not in languages():
            raise InvalidInputError(
                f"--language {self.language} is not supported; use one of {', '.join(languages())}, or leave BM25 out "
                "with --no-baseline"
            )
        self._check_destinations()

    @property
    def search(self) -> dict[str, Any]:
        """The arguments for `evaluate` that were given, by its names."""
        found: dict[str, Any] = {}
        if self.modes is not None:
            found["modes"] = _parse_modes(self.modes)
        if self.weights is not None:
            found["weights"] = _parse_weights(self.weights)
        if self.rerank_depth is not None:
            found["rerank_depth"] = check_whole_number(self.rerank_depth, "--rerank-depth")
        return found

    def check_data_set(self, data: Dataset) -> None:
        """Raise InvalidInputError if the options can't be used with a data set."""
        if self.tune:
            check_enough_queries(data)
        if not self.no_baseline:
            check_language(data, self.language or "english")
        if self.runs is not None:
            for key in (*data.judged, *data.documents):
                try:
                    check_trec_id(key)
                except InvalidInputError as error:
                    raise InvalidInputError(f"{data.name}: {error}, or leave --runs out") from error

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise InvalidInputError if the embedder lacks scores that the options need."""
        if embedder.has_sparse:
            return
        for option, is_given in (
            ("--tune", self.tune),
            ("--weights", self.weights is not None),
            (f"--modes {self.modes}", self.search.get("modes", ["dense"]) != ["dense"]),
        ):
            if is_given:
                raise InvalidInputError(
                    f"{option} needs sparse and multi-vector scores, which {embedder.name} does not have; leave it "
                    "out, or name a --model that has them: BAAI/bge-m3, or pocket"
                )

    def _check_destinations(self) -> None:
        """Raise InvalidInputError if a result could not be written once it is measured."""
        destinations = [("--markdown", self.markdown, check_file), ("--runs", self.runs, check_folder)]
        if self.json != "-":
            destinations.append(("--json", self.json, check_file))
        for option, path, check in destinations:
            if path is not None:
                try:
                    check(path)
                except InvalidInputError as error:
                    raise InvalidInputError(f"{option}: {error}") from error
        paths = [Path(path).resolve() for _, path, _ in destinations if path is not None]
        if len(set(paths)) != len(paths):
            raise InvalidInputError("two of --json, --markdown and --runs have the same name; give each its own")
        names = [Path(folder).resolve().name for folder in self.folders]
        if self.runs is not None and len(set(names)) != len(names):
            raise InvalidInputError("two of the folders have the same name, so their runs would overwrite each other")


def _parse_modes(text: str) -> list[Any]:
    modes = text.split(",")
    if not set(modes) <= set(get_args(Mode)) or len(set(modes)) != len(modes):
        raise InvalidInputError(
            f"--modes {text} must be some of {', '.join(get_args(Mode))}, each once, separated by commas"
        )
    return modes


def _parse_weights(text: str) -> Weights:
    try:
        dense, sparse, multi_vector = map(float, text.split(","))
        weights_by_name((dense, sparse, multi_vector))
    except ValueError as error:  # includes InvalidInputError
        raise InvalidInputError(
            f"--weights {text} must be three numbers separated by commas, such as 1,0.3,1: none below 0 or huge, and "
            "at least one above 0"
        ) from error
    return dense, sparse, multi_vector
