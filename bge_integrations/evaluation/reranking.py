"""A run's first documents put in a reranker's order."""

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
    """Put the first `depth` documents of each query in the order of the reranker's scores; the rest follow as before.

    The first `depth` have the reranker's logits as scores. Those below keep their order, with scores that count down
    by 1 from the lowest logit.

    Args:
        data: The texts.
        run: The first search.
        reranker: Any.
        depth: How many documents of each query are scored.
        on_truncate: As in `Reranker.score`.
        show_progress: Show a bar.

    Raises:
        InvalidInputError: The run names queries or documents that are not in the data, or an argument can't be used.
    """
    check_data(data)
    check_run(run)
    check_reranker(reranker)
    check_whole_number(depth, "depth")
    for query, ranking in run.rankings.items():
        for document, _ in ranking:
            if query not in data.queries or document not in data.documents:
                raise InvalidInputError(
                    f"the run {run.name!r} has query {query!r} and document {document!r}, and {data.name!r} does not "
                    "have both; rerank a run with the data that it was made from"
                )
    tops = [(query, document) for query, ranking in run.rankings.items() for document, _ in ranking[:depth]]
    started = time.perf_counter()
    logits = reranker.score(
        [(data.queries[query], data.documents[document]) for query, document in tops],
        on_truncate=on_truncate,
        show_progress=show_progress,
    )
    taken = time.perf_counter() - started
    score_of = dict(zip(tops, logits.tolist(), strict=True))
    rankings = {}
    for query, ranking in run.rankings.items():
        scored = [(document, score_of[query, document]) for document, _ in ranking[:depth]]
        scored.sort(key=lambda pair: (-pair[1], pair[0]))
        rest = [(document, scored[-1][1] - below) for below, (document, _) in enumerate(ranking[depth:], start=1)]
        rankings[query] = scored + rest
    return Run(f"{run.name} + rerank", rankings, {**run.seconds, "rerank": taken})


def check_reranker(reranker: object) -> None:
    """Raise InvalidInputError unless this is a loaded reranker."""
    from bge_integrations.core.reranker import Reranker  # here, since it imports torch

    if not isinstance(reranker, Reranker):
        raise InvalidInputError(f"the reranker is of type {type(reranker).__name__}; pass what load_reranker gives")
    if len(reranker.cutoff_layers) > 1:
        raise InvalidInputError(
            f"{reranker.name} has a score for each of its {len(reranker.cutoff_layers)} cut-offs; load it with one of "
            "them, or see compare_cutoffs"
        )
