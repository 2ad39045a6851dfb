"""Compare the cut-off layers of a reranker: quality and time of each, on your own data."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.extra import import_extra
from bge_integrations.evaluation.measures import MEASURES, Result, measure_run
from bge_integrations.evaluation.reranking import rerank
from bge_integrations.evaluation.retrieval import check_modes, find_candidates
from bge_integrations.evaluation.runs import Run
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from rich.table import Table

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.evaluation.dataset import Dataset
    from bge_integrations.scoring import Mode

_WIDTH = 130


@dataclass(frozen=True, eq=False)
class CutoffRow:
    """One row of a `CutoffComparison`.

    Attributes:
        cutoff: The layer after which the reranker scores; None for the search without reranking.
        result: The run and its measures.
        seconds_per_query: Time to score one query's documents, without loading the model; 0 without reranking.
    """

    cutoff: int | None
    result: Result
    seconds_per_query: float


@dataclass(frozen=True, eq=False)
class CutoffComparison:
    """The cut-offs of one reranker, after the search without reranking. `print(comparison)` shows a table.

    Attributes:
        title: Names the data set, the models and the depth.
        rows: The rows of the table, in order.
    """

    title: str
    rows: list[CutoffRow]

    def table(self) -> Table:
        """Return a `rich` table with one row per cut-off."""
        escape = import_extra("rich.markup").escape  # names may contain brackets
        table: Table = import_extra("rich.table").Table(title=escape(self.title), title_justify="left")
        header, rows = self._cells()
        for name in header:
            table.add_column(escape(name), justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, with the title as a heading."""
        header, rows = self._cells()
        lines = [f"| {' | '.join(row)} |" for row in (header, ["--:"] * len(header), *rows)]
        return "\n".join([f"## {self.title}", "", *lines, ""])

    def __str__(self) -> str:
        console = import_extra("rich.console").Console(file=io.StringIO(), width=_WIDTH)
        console.print(self.table())
        text: str = console.file.getvalue()
        return text.rstrip("\n")

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        main, *others = MEASURES
        rows = []
        for row in self.rows:
            means, (lower, upper) = row.result.means, row.result.intervals[main]
            cells = ["none" if row.cutoff is None else str(row.cutoff), f"{means[main]:.3f} [{lower:.3f}, {upper:.3f}]"]
            cells += [f"{means[other]:.3f}" for other in others]
            rows.append([*cells, "" if row.cutoff is None else f"{row.seconds_per_query:.3g}"])
        return ["layers", f"{main} [95 %]", *others, "s/query"], rows


def compare_cutoffs(
    data: Dataset,
    embedder: Embedder,
    reranker: str | os.PathLike[str],
    *,
    cutoff_layers: Sequence[int],
    depth: int = 50,
    mode: Mode | None = None,
    on_truncate: OnTruncate = "warn",
    show_progress: bool = False,
    **settings: Any,
) -> CutoffComparison:
    """Measure the quality and speed of a layerwise or lightweight reranker at each cut-off.

    The documents are searched once. For each cut-off, the reranker is loaded without the layers above it, as in
    production, and warmed up on one query. All queries' documents are then scored in one call, and the time is divided
    by the number of queries; a query on its own takes longer if its documents do not fill the device.

    Args:
        data: Queries, documents and judgements.
        embedder: Finds the documents to rerank.
        reranker: Hub id or folder of a layerwise or lightweight reranker.
        cutoff_layers: The layers to compare, such as [8, 16, 24, 40].
        depth: Number of documents to rerank per query.
        mode: Search mode; None means "hybrid", or "dense" if the embedder has no other.
        on_truncate: As in `Reranker.score`.
        show_progress: Show progress bars.
        **settings: Other arguments of `load_reranker`: device, dtype, max_length, compress_ratio and so on.

    Raises:
        InvalidInputError: The reranker does not have these cut-offs, or an argument is invalid. Checked before the
            search.
        ImportError: The extra "eval" is not installed.
    """
    from bge_integrations.core.loading import load_reranker

    cutoffs = list(cutoff_layers) if isinstance(cutoff_layers, Sequence) else []
    if not cutoffs:
        raise InvalidInputError(
            f"cutoff_layers={cutoff_layers!r} must be a list of layers, such as [8, 16, 24, 40]",
            argument="cutoff_layers",
        )
    check_whole_number(depth, "depth")
    chosen = check_modes(None if mode is None else [mode], embedder)[-1]
    import_extra("ir_measures")
    with load_reranker(reranker, cutoff_layers=cutoffs, **settings) as loaded:  # raises for a cut-off it lacks
        name = loaded.name
        if any(layer >= min(cutoffs) for layer, _ in loaded.compression):
            raise InvalidInputError(
                f"passages are compressed before layer {max(layer for layer, _ in loaded.compression)}, which has no "
                f"effect with the cut-off {min(cutoffs)}",
                argument="compress_layers",
                advice="leave the compression out, or use lower compress_layers",
            )
    candidates = find_candidates(
        data, embedder, modes=[chosen], depth=depth, on_truncate=on_truncate, show_progress=show_progress
    )
    first = candidates.run(chosen, candidates.kept)
    if not first.rankings:
        raise InvalidInputError(
            f"the {chosen!r} search found nothing to rerank in {data.name!r}",
            argument="mode",
            advice="use another mode",
        )
    one_query = Run(first.name, dict(list(first.rankings.items())[:1]))
    rows = [CutoffRow(None, measure_run(data, first), 0.0)]
    for cutoff in cutoffs:
        with load_reranker(reranker, cutoff_layers=cutoff, **settings) as loaded:
            rerank(data, one_query, loaded, depth, on_truncate="ignore")
            run = rerank(data, first, loaded, depth, on_truncate=on_truncate, show_progress=show_progress)
        result = measure_run(data, replace(run, name=f"{run.name} ({cutoff} layers)"))
        rows.append(CutoffRow(cutoff, result, run.seconds["rerank"] / len(first.rankings)))
    title = (
        f"{data.name}: {len(data.documents)} documents, {len(data.judged)} queries; {embedder.name} by {chosen}, the "
        f"first {depth} reranked by {name}"
    )
    return CutoffComparison(title, rows)
