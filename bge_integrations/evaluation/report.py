"""Evaluate an embedder on one data set, and report the results."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bge_integrations
from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.baseline import bm25
from bge_integrations.evaluation.dataset import Dataset, check_data
from bge_integrations.evaluation.extra import import_extra
from bge_integrations.evaluation.files import check_folder, write_text
from bge_integrations.evaluation.measures import MEASURES, Comparison, Result, compare, measure_run
from bge_integrations.evaluation.reranking import check_reranker, rerank
from bge_integrations.evaluation.retrieval import Candidates, check_modes, find_candidates
from bge_integrations.evaluation.runs import Run
from bge_integrations.scoring import Mode, Weights, weights_by_name
from bge_integrations.validation import check_on_truncate, check_whole_number

if TYPE_CHECKING:
    from rich.table import Table

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.core.session import Loaded

_MAIN = "nDCG@10"
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "ir-measures", "bm25s", "PyStemmer")
_WIDTH = 130


@dataclass(frozen=True, eq=False)
class Report:
    """The results of one evaluation. `report["hybrid"]` is one method's result; `print(report)` shows a table.

    Attributes:
        results: Results by method, in the order of the table.
        baseline: The method that the others are compared with, or None.
        candidates: The best documents of all modes, for `tune_weights`.
        about: The data set, the models, the versions and the machine.
    """

    results: dict[str, Result]
    baseline: str | None
    candidates: Candidates
    about: dict[str, Any]

    def __getitem__(self, method: str) -> Result:
        if not isinstance(method, str) or method not in self.results:
            raise InvalidInputError(
                f"the report has no method {method!r}", advice=f"use one of {', '.join(map(repr, self.results))}"
            )
        return self.results[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def comparisons(self) -> dict[str, Comparison]:
        """Compare each method's nDCG@10 with the baseline's."""
        if self.baseline is None:
            return {}
        base = self.results[self.baseline]
        return {name: compare(result, base, _MAIN) for name, result in self.results.items() if name != self.baseline}

    def table(self) -> Table:
        """Return a `rich` table with one row per method."""
        escape = import_extra("rich.markup").escape  # names may contain brackets
        table: Table = import_extra("rich.table").Table(title=escape(self._title()), title_justify="left")
        header, rows = self._cells()
        for i, name in enumerate(header):
            table.add_column(escape(name), justify="right" if i else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, with the title as a heading."""
        header, rows = self._cells()
        rule = ["---"] + ["--:"] * (len(header) - 1)
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]  # names may contain bars
        lines = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([f"## {self._title()}", "", *lines, ""])

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, also per query, and `about`. The rankings are not included; see `save_runs`."""
        comparisons = self.comparisons()
        return {
            **self.about,
            "baseline": self.baseline,
            "methods": {
                name: {
                    "means": result.means,
                    "intervals": result.intervals,
                    "seconds": result.run.seconds,
                    "documents_per_second": self._speed(result),
                    "against_baseline": asdict(comparisons[name]) if name in comparisons else None,
                    "per_query": result.per_query,
                }
                for name, result in self.results.items()
            },
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write report.json and one TREC run per method, `<method>.trec`, into the folder.

        Raises:
            InvalidInputError: As in `save_runs`.
        """
        self.save_runs(folder)
        write_text(Path(folder) / "report.json", self.to_json() + "\n")

    def save_runs(self, folder: str | os.PathLike[str]) -> None:
        """Write one TREC run per method, `<method>.trec`, into the folder.

        Raises:
            InvalidInputError: An id contains whitespace, or the folder can't be written to; nothing was written.
        """
        check_folder(folder)
        runs = [result.run for result in self.results.values()]
        texts = {f"{run.tag.replace('/', '_')}.trec": run.to_trec() for run in runs}
        for file, text in texts.items():
            write_text(Path(folder) / file, text)

    def __str__(self) -> str:
        console = import_extra("rich.console").Console(file=io.StringIO(), width=_WIDTH)
        console.print(self.table())
        text: str = console.file.getvalue()
        return text.rstrip("\n")

    def _title(self) -> str:
        data, embedder, reranker = self.about["data"], self.about["embedder"], self.about["reranker"]
        models = embedder["name"] + (f", reranked by {reranker['name']}" if reranker else "")
        return f"{data['name']}: {data['documents']} documents, {data['judged_queries']} queries; {models}"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        others = [name for name in MEASURES if name != _MAIN]
        header = ["method", f"{_MAIN} [95 %]", *others]
        comparisons = self.comparisons()
        if self.baseline:
            header.append(f"nDCG@10 less {self.baseline}")
        header.append("documents/s")
        rows = []
        for name, result in self.results.items():
            lower, upper = result.intervals[_MAIN]
            row = [name, f"{result.means[_MAIN]:.3f} [{lower:.3f}, {upper:.3f}]"]
            row += [f"{result.means[other]:.3f}" for other in others]
            if self.baseline:
                row.append(_shown(comparisons[name]) if name in comparisons else "")
            speed = self._speed(result)
            rows.append([*row, "" if speed is None else f"{speed:.0f}"])
        return header, rows

    def _speed(self, result: Result) -> float | None:
        """Documents encoded per second, or None if that was not measured."""
        seconds = result.run.seconds.get("encode", 0.0)
        return self.about["data"]["documents"] / seconds if seconds > 0 else None


def evaluate(
    data: Dataset,
    embedder: Embedder,
    *,
    modes: Sequence[Mode] | None = None,
    weights: Weights = (1.0, 1.0, 1.0),
    reranker: Reranker | None = None,
    rerank_depth: int = 50,
    baseline: bool | Run = True,
    depth: int = 1000,
    on_truncate: OnTruncate = "warn",
    show_progress: bool = False,
) -> Report:
    """Measure how well an embedder, optionally with a reranker, finds the documents that answer.

    Args:
        data: Queries, documents and judgements. A document with a query's own id is excluded from its ranking.
        embedder: Any embedder.
        modes: "dense", and for bge-m3 "sparse", "multi_vector" and "hybrid"; None means all that the embedder has.
        weights: Weights of the dense, sparse and multi-vector scores in "hybrid".
        reranker: Reranks the top documents of "hybrid", or of the first mode without "hybrid".
        rerank_depth: Number of documents to rerank per query.
        baseline: What to compare with: True for English BM25, False for nothing, or a `Run` (BM25 in another language,
            or your current search).
        depth: Number of documents to rank per query.
        on_truncate: What to do with texts longer than the model's max_length; see `Embedder.encode`.
        show_progress: Show progress bars.

    Raises:
        InvalidInputError: The embedder does not have a mode, or an argument is invalid.
        ImportError: The extra "eval" is not installed.
    """
    check_data(data)
    chosen = check_modes(modes, embedder)
    if reranker is not None:
        check_reranker(reranker)
    if not isinstance(baseline, (bool, Run)):
        raise InvalidInputError(
            f"baseline must be a bool or a Run, got {type(baseline).__name__}",
            argument="baseline",
            advice="pass True for English BM25, False for none, or a Run such as bm25(data, language='german')",
        )
    weights_by_name(weights)  # all arguments are checked before the first search
    check_whole_number(rerank_depth, "rerank_depth")
    check_whole_number(depth, "depth")
    check_on_truncate(on_truncate)
    results: dict[str, Result] = {}
    base = None
    if baseline:  # first, because it is the fastest to fail
        run = bm25(data, depth=depth, show_progress=show_progress) if baseline is True else baseline.without_own_ids()
        base = run.name
        if run.tag.split("+")[0] in chosen:  # the tag is also the file name
            raise InvalidInputError(
                f"the baseline's name {base!r} is also the name of a method",
                argument="baseline",
                advice="give its Run another name",
            )
        results[base] = measure_run(data, run)
    candidates = find_candidates(
        data, embedder, modes=chosen, weights=weights, depth=depth, on_truncate=on_truncate, show_progress=show_progress
    )
    runs = {mode: candidates.run(mode, depth) for mode in candidates.modes}
    measured = list(runs.values())
    if reranker is not None:
        first = runs.get("hybrid", measured[0])
        measured.append(
            rerank(data, first, reranker, rerank_depth, on_truncate=on_truncate, show_progress=show_progress)
        )
    for run in measured:
        results[run.name] = measure_run(data, run)
    about = {
        "data": {"name": data.name, "documents": len(data.documents), "judged_queries": len(data.judged)},
        "embedder": _about_embedder(embedder),
        "reranker": None if reranker is None else _about_reranker(reranker),
        "weights": list(map(float, weights)),
        "rerank_depth": rerank_depth,
        "depth": depth,
        "versions": {"bge-integrations": bge_integrations.__version__, **_versions()},
        "machine": _machine(),
    }
    return Report(results, base, candidates, about)


def _shown(comparison: Comparison) -> str:
    p = comparison.p_value
    return f"{comparison.difference:+.3f} (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})"


def _about(loaded: Loaded) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "device": loaded.device,
        "weights": loaded.weights_digest,
        "max_length": loaded.max_length,
        "dtype": loaded.dtype,
    }


def _about_embedder(embedder: Embedder) -> dict[str, Any]:
    return {
        **_about(embedder),
        "revision": embedder.revision,
        "pooling": embedder.pooling,
        "dimension": embedder.dimension,
        "query_instruction": embedder.vector_settings("query")["instruction"],  # includes bge-en-icl's examples
        "passage_instruction": embedder.passage_instruction,
    }


def _about_reranker(reranker: Reranker) -> dict[str, Any]:
    return {
        **_about(reranker),
        "cutoff_layers": list(reranker.cutoff_layers),
        "compression": [list(pair) for pair in reranker.compression],
        "prompt": reranker.prompt,
    }


def _versions() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # bm25s and PyStemmer are only needed for BM25
            continue
    return versions


def _machine() -> dict[str, Any]:
    import torch

    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
