"""Evaluate a model before and after its training, on the same held-out queries, beside BM25."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bge_integrations.core.loading import load_embedder, load_reranker
from bge_integrations.evaluation import Dataset, bm25, find_candidates, measure_run, rerank
from bge_integrations.evaluation.baseline import check_language
from bge_integrations.evaluation.measures import MEASURES, Comparison, Result, compare
from bge_integrations.training.groups import random_for
from bge_integrations.training.rows import TrainingRows, normalized
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind
    from bge_integrations.evaluation.runs import Run

_MAIN = "nDCG@10"


@dataclass(frozen=True, eq=False)
class Gain:
    """What a training changed. `print` shows the table.

    Attributes:
        data: The name of the evaluated data.
        queries, documents: Their numbers.
        results: Results by method: "BM25", and "before" and "after", with the search mode if there are several.
        comparisons: After against before by nDCG@10, by search mode, with a 95 % interval of the difference.
    """

    data: str
    queries: int
    documents: int
    results: dict[str, Result]
    comparisons: dict[str, Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON's types, without the rankings."""
        return {
            "data": self.data,
            "queries": self.queries,
            "documents": self.documents,
            "methods": {
                name: {"means": result.means, "intervals": result.intervals} for name, result in self.results.items()
            },
            "comparisons": {mode: asdict(comparison) for mode, comparison in self.comparisons.items()},
        }

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of the table."""
        header = ["method", f"{_MAIN} [95 %]", *(name for name in MEASURES if name != _MAIN)]
        rows = []
        for name, result in self.results.items():
            lower, upper = result.intervals[_MAIN]
            others = [f"{result.means[measure]:.3f}" for measure in header[2:]]
            rows.append([name, f"{result.means[_MAIN]:.3f} [{lower:.3f}, {upper:.3f}]", *others])
        return header, rows

    def sentences(self) -> list[str]:
        """Return for each search mode what changed, and whether it is more than chance."""
        sentences = []
        for mode, comparison in self.comparisons.items():
            lower, upper = comparison.interval
            mode_name = f" of {mode} search" if len(self.comparisons) > 1 else ""
            verdict = "better" if lower > 0 else "worse" if upper < 0 else "no clear difference"
            sentences.append(
                f"{_MAIN}{mode_name} changed by {comparison.difference:+.3f} [{lower:+.3f}, {upper:+.3f}]: {verdict} "
                f"({comparison.wins} queries better, {comparison.ties} equal, {comparison.losses} worse)"
            )
        return sentences

    def markdown(self) -> str:
        """Return the table and the sentences as Markdown."""
        header, rows = self.cells()
        lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n" + "\n".join(f"- {sentence}" for sentence in self.sentences()) + "\n"

    def __str__(self) -> str:
        header, rows = self.cells()
        widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (header, *rows)
        ]
        return "\n".join([f"{self.data}: {self.queries} queries, {self.documents} passages", *lines, *self.sentences()])


def evaluation_data(
    held_out: TrainingRows, train: TrainingRows, *, most_documents: int = 10_000, seed: int = 0
) -> Dataset:
    """Return the held-out queries with all passages as the documents to search.

    Args:
        held_out: Rows whose queries are asked. Their positives answer, and nothing else is known to.
        train: Rows whose passages are searched too.
        most_documents: Maximum number of documents. If there are more, passages of `train` are drawn at random.
        seed: Of that draw.
    """
    check_whole_number(most_documents, "most_documents")
    own = dict.fromkeys(text for row in held_out for text in (*row.pos, *row.neg))
    others = list(dict.fromkeys(text for row in train for text in (*row.pos, *row.neg) if text not in own))
    room = max(0, most_documents - len(own))
    total = len(own) + len(others)
    if len(others) > room:
        others = random_for(seed, "documents").sample(others, room)
    ids = {text: f"d{i}" for i, text in enumerate([*own, *others])}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    keys: dict[str, str] = {}
    for row in held_out:
        key = keys.setdefault(normalized(row.query), f"q{len(keys)}")
        queries.setdefault(key, row.query)
        qrels.setdefault(key, {}).update(dict.fromkeys((ids[text] for text in row.pos), 1))
    drawn = "" if len(ids) == total else f" (passages drawn from {total:,})"
    return Dataset(
        queries=queries,
        documents={key: text for text, key in ids.items()},
        qrels=qrels,
        name=f"held-out data{drawn}",
    )


def measure_gain(
    kind: Kind,
    data: Dataset,
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    query_instruction: str | None = None,
    language: str = "english",
    depth: int = 50,
    before_settings: Mapping[str, Any] | None = None,
    after_settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    show_progress: bool = False,
) -> Gain:
    """Evaluate a model before and after its training.

    Args:
        kind: "embedder": both search all documents. "reranker": both rerank the best documents of BM25.
        data: Queries, documents and judgements.
        before, after: The two models.
        query_instruction: Of embedders; None uses each model's own.
        language: Of BM25, as in `evaluation.bm25`.
        depth: Number of documents to rerank per query.
        before_settings, after_settings: Further arguments of `load_embedder` or `load_reranker` for each model.
        device: As in `load_embedder`.
        show_progress: Show progress bars.
    """
    check_language(data, language)
    baseline = bm25(data, language=language)
    results = {"BM25": measure_run(data, baseline)}
    models = {"before": (before, before_settings or {}), "after": (after, after_settings or {})}
    if kind == "reranker":
        modes = ["rerank"]
        for name, (model, settings) in models.items():
            with load_reranker(model, device=device, **settings) as reranker:
                run = rerank(data, baseline, reranker, depth, on_truncate="ignore", show_progress=show_progress)
                results[name] = measure_run(data, run)
    else:
        by_model = {
            name: _searches(
                data, model, {"device": device, "query_instruction": query_instruction, **settings}, show_progress
            )
            for name, (model, settings) in models.items()
        }
        modes = [mode for mode in by_model["before"] if mode in by_model["after"]]
        for mode in modes:
            for name, runs in by_model.items():
                results[f"{name}, {mode}" if len(modes) > 1 else name] = measure_run(data, runs[mode])
    comparisons = {}
    for mode in modes:
        suffix = f", {mode}" if len(modes) > 1 else ""
        comparisons[mode] = compare(results[f"after{suffix}"], results[f"before{suffix}"], _MAIN)
    return Gain(data.name, len(data.judged), len(data.documents), results, comparisons)


def _searches(
    data: Dataset, model: str | os.PathLike[str], settings: Mapping[str, Any], show_progress: bool
) -> dict[str, Run]:
    with load_embedder(model, **settings) as embedder:
        found = find_candidates(data, embedder, on_truncate="ignore", show_progress=show_progress)
    return {mode: found.run(mode) for mode in found.modes}
