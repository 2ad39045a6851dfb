"""Rerank the top documents of a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.dataset import Dataset, check_data
from bge_integrations.evaluation.runs import Run, check_run
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Reranker


def rerank(
    data: Dataset,
    run: Run,
    reranker: Reranker,
    depth: int = 50,
    *,
    on_truncate: OnTruncate = "warn",
    show_progress: bool = False,
) -> Run:
    """Sort the top `depth` documents of each query by the reranker's scores; the rest keep their order.

    The scores of the top `depth` are the reranker's logits. The scores of the rest continue downwards from the lowest
    logit in steps of 1.

    Args:
        data: The texts.
        run: The first-stage run.
        reranker: Any reranker.
        depth: Number of documents to rerank per query.
        on_truncate: As in `Reranker.score`.
        show_progress: Show a progress bar.

    Raises:
        InvalidInputError: The run has queries or documents that are not in the data, or an argument is invalid.
    """
    check_data(data)
    check_run(run)
    check_reranker(reranker)
    check_whole_number(depth, "depth")
    for query, ranking in run.rankings.items():
        for document, _ in ranking:
            if query not in data.queries or document not in data.documents:
                raise InvalidInputError(
                    f"{data.name!r} does not have both query {query!r} and document {document!r} of the run "
                    f"{run.name!r}",
                    argument="run",
                    advice="rerank it with the data that it was made from",
                )
    tops = [(query, document) for query, ranking in run.rankings.items() for document, _ in ranking[:depth]]
    started = time.perf_counter()
    logits = reranker.score(
        [(data.queries[query], data.documents[document]) for query, document in tops],
        on_truncate=on_truncate,
        show_progress=show_progress,
    )
    seconds = time.perf_counter() - started
    score_of = dict(zip(tops, logits.tolist(), strict=True))
    rankings = {}
    for query, ranking in run.rankings.items():
        scored = [(document, score_of[query, document]) for document, _ in ranking[:depth]]
        scored.sort(key=lambda pair: (-pair[1], pair[0]))
        rest = [(document, scored[-1][1] - below) for below, (document, _) in enumerate(ranking[depth:], start=1)]
        rankings[query] = scored + rest
    return Run(f"{run.name} + rerank", rankings, {**run.seconds, "rerank": seconds})


def check_reranker(reranker: object) -> None:
    """Raise InvalidInputError unless this is a loaded reranker."""
    from bge_integrations.core.reranker import Reranker  # imports torch

    if not isinstance(reranker, Reranker):
        raise InvalidInputError(
            f"reranker must be a Reranker, got {type(reranker).__name__}",
            argument="reranker",
            advice="load one with load_reranker",
        )
    if len(reranker.cutoff_layers) > 1:
        raise InvalidInputError(
            f"{reranker.name} returns scores for {len(reranker.cutoff_layers)} cut-off layers",
            argument="reranker",
            advice="load it with one cut-off, or use compare_cutoffs",
        )
