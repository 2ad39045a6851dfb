"""Teacher scores: what rerankers say about each row's passages, for models that learn from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from bge_integrations.core.loading import load_reranker
from bge_integrations.core.reranker import Reranker
from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.outputs import check_new_file
from bge_integrations.training.row_files import read_rows, write_rows
from bge_integrations.training.rows import TrainingData, TrainingRow

#: A reranker's name or folder, or a loaded one.
Teacher = str | os.PathLike[str] | Reranker


def teacher_scores(
    data: TrainingData,
    rerankers: Teacher | Sequence[Teacher],
    output: str | os.PathLike[str] | None = None,
    *,
    weights: Sequence[float] | None = None,
    normalize: bool = False,
    max_length: int | None = None,
    query_max_length: int | None = None,
    device: str | list[str] | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> tuple[TrainingRow, ...]:
    """Score each row's positives and negatives with rerankers, as `pos_scores` and `neg_scores` of the row.

    The scores are logits, because training takes their softmax: the sigmoid's scores between 0 and 1 would teach that
    all passages are about equally good. Several rerankers are loaded one after the other, and their scores averaged; if
    the logits of one spread more widely than those of another, it decides more, unless the weights even this out.
    Prompts in the rows are for the model that will be trained, and are not used here.

    Args:
        data: Training rows; see `read_rows`. Scores that they have are replaced.
        rerankers: One or several: names, folders or loaded rerankers.
        output: The .jsonl file to write; None writes none.
        weights: One number above 0 per reranker, of which only the ratio matters. None weights all equally.
        normalize: Average the sigmoid of the logits instead.
        max_length, query_max_length: As in `load_reranker`, for rerankers that are not loaded yet.
        device, dtype: As in `load_reranker`, for rerankers that are not loaded yet.
        overwrite: Replace the output if it exists.
        show_progress: Show a progress bar for each reranker.

    Returns:
        The rows with their scores, in the order of the data.

    Raises:
        InvalidInputError: An argument is invalid, or the output exists.
        TrainingDataError: A row is invalid; see `read_rows`.
    """
    target = None if output is None else check_new_file(output, overwrite)
    teachers = [rerankers] if isinstance(rerankers, (str, os.PathLike, Reranker)) else list(rerankers)
    shares = _check_weights(teachers, weights)
    rows = read_rows(data)
    pairs = [(row.query, text) for row in rows for text in (*row.pos, *row.neg)]
    total = np.zeros(len(pairs))
    for teacher, share in zip(teachers, shares, strict=True):
        loading = (
            nullcontext(teacher)
            if isinstance(teacher, Reranker)
            else load_reranker(
                teacher, device=device, dtype=dtype, max_length=max_length, query_max_length=query_max_length
            )
        )
        with loading as reranker:
            if len(reranker.cutoff_layers) > 1:
                raise InvalidInputError(
                    f"{reranker.name} returns scores for {len(reranker.cutoff_layers)} cut-off layers",
                    argument="rerankers",
                    advice="load it with one cut-off",
                )
            total += share * reranker.score(pairs, normalize=normalize, show_progress=show_progress)
    scores = iter(total.astype(np.float32).tolist())
    scored = []
    for row in rows:
        pos_scores = tuple(next(scores) for _ in row.pos)
        scored.append(replace(row, pos_scores=pos_scores, neg_scores=tuple(next(scores) for _ in row.neg)))
    if target is not None:
        write_rows(scored, target)
    return tuple(scored)


def _check_weights(teachers: Sequence[Teacher], weights: Sequence[float] | None) -> list[float]:
    """Return one weight per reranker; they sum to 1."""
    if not teachers:
        raise InvalidInputError("there is no reranker", argument="rerankers", advice="pass at least one")
    if weights is None:
        return [1 / len(teachers)] * len(teachers)
    try:
        numbers = np.array([float(weight) for weight in weights])
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != len(teachers) or not np.isfinite(numbers).all() or (numbers <= 0).any():
        raise InvalidInputError(
            f"{spelled('weights', weights)} must be {len(teachers)} numbers above 0, one per reranker",
            argument="weights",
        )
    shares: list[float] = (numbers / numbers.sum()).tolist()
    return shares
