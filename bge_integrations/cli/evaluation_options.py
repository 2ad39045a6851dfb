"""Parse and check the options of `bge eval`, before anything is loaded or measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bge_integrations.cli.options import parse_weights
from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.baseline import check_language, languages
from bge_integrations.evaluation.dataset import Dataset
from bge_integrations.evaluation.files import check_file, check_folder
from bge_integrations.evaluation.runs import check_trec_id
from bge_integrations.evaluation.tuning import check_enough_queries
from bge_integrations.scoring import Mode
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of `bge eval`; None if an option was not given.

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
    save_to: str | None
    json: str | None
    runs: str | None
    markdown: str | None
    device: list[str] | None
    dtype: str | None

    def __post_init__(self) -> None:
        modes = self.search.get("modes", ["hybrid"])
        if self.tune and self.modes is not None:
            raise InvalidInputError("--tune needs all modes", advice="leave --modes out")
        if self.save_to is not None and not self.tune:
            raise InvalidInputError(
                "--save-to has no effect without --tune", advice="add --tune, or leave --save-to out"
            )
        if self.save_to is not None and len(self.folders) > 1:
            raise InvalidInputError(
                "--save-to needs weights tuned on one data set, but there are several",
                advice="pass the data set that is most like the index",
            )
        if self.weights is not None and "hybrid" not in modes:
            raise InvalidInputError(
                "--weights has no effect, because hybrid is not among --modes",
                advice="add hybrid, or leave --weights out",
            )
        if self.rerank_depth is not None and self.reranker is None:
            raise InvalidInputError(
                "--rerank-depth has no effect without --reranker",
                advice="pass a --reranker, or leave --rerank-depth out",
            )
        if self.language is not None and self.no_baseline:
            raise InvalidInputError(
                "--language has no effect with --no-baseline, which skips BM25", advice="leave one of the two out"
            )
        if self.language is not None and self.language not in languages():
            raise InvalidInputError(
                f"--language {self.language} is not supported",
                advice=f"use one of {', '.join(languages())}, or skip BM25 with --no-baseline",
            )
        self._check_destinations()

    @property
    def search(self) -> dict[str, Any]:
        """The given options as arguments of `evaluate`."""
        arguments: dict[str, Any] = {}
        if self.modes is not None:
            arguments["modes"] = _parse_modes(self.modes)
        if self.weights is not None:
            arguments["weights"] = parse_weights(self.weights)
        if self.rerank_depth is not None:
            arguments["rerank_depth"] = check_whole_number(self.rerank_depth, "--rerank-depth")
        return arguments

    def check_data_set(self, data: Dataset) -> None:
        """Raise InvalidInputError if the options do not work with a data set."""
        if self.tune:
            check_enough_queries(data)
        if not self.no_baseline:
            check_language(data, self.language or "english")
        if self.runs is not None:
            for key in (*data.judged, *data.documents):
                try:
                    check_trec_id(key)
                except InvalidInputError as error:
                    raise InvalidInputError(
                        f"{data.name}: {error.finding}", advice=f"{error.advice}, or leave --runs out"
                    ) from error

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise InvalidInputError if the options need scores that the embedder does not have."""
        if embedder.has_sparse:
            return
        for option, is_given in (
            ("--tune", self.tune),
            ("--weights", self.weights is not None),
            (f"--modes {self.modes}", self.search.get("modes", ["dense"]) != ["dense"]),
        ):
            if is_given:
                raise InvalidInputError(
                    f"{option} needs sparse and multi-vector scores, which {embedder.name} does not have",
                    advice="leave it out, or use a --model that has them: BAAI/bge-m3 or pocket",
                )

    def _check_destinations(self) -> None:
        """Raise InvalidInputError if a result file can't be written."""
        destinations = [("--markdown", self.markdown, check_file), ("--runs", self.runs, check_folder)]
        if self.json != "-":
            destinations.append(("--json", self.json, check_file))
        for option, path, check in destinations:
            if path is not None:
                try:
                    check(path)
                except InvalidInputError as error:
                    raise InvalidInputError(f"{option}: {error.finding}", advice=error.advice) from error
        paths = [Path(path).resolve() for _, path, _ in destinations if path is not None]
        if len(set(paths)) != len(paths):
            raise InvalidInputError(
                "two of --json, --markdown and --runs have the same path", advice="give each its own"
            )
        names = [Path(folder).resolve().name for folder in self.folders]
        if self.runs is not None and len(set(names)) != len(names):
            raise InvalidInputError(
                "two of the folders have the same name, so their --runs would overwrite each other",
                advice="rename one, or evaluate them separately",
            )


def _parse_modes(text: str) -> list[Any]:
    modes = text.split(",")
    if not set(modes) <= set(get_args(Mode)) or len(set(modes)) != len(modes):
        raise InvalidInputError(
            f"--modes {text} must be a comma-separated list of {', '.join(get_args(Mode))} without repeats"
        )
    return modes
