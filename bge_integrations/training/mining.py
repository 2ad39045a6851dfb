"""Mine hard negatives: passages that a model ranks high for a query although they don't answer it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations.core.embedder import Embedder
from bge_integrations.core.loading import load_embedder, load_reranker
from bge_integrations.core.reranker import Reranker
from bge_integrations.errors import InvalidInputError
from bge_integrations.progress import progress_bar
from bge_integrations.reporting import TruncatedTexts
from bge_integrations.scoring import weights_by_name
from bge_integrations.spelling import spelled
from bge_integrations.training.choosing import Chooser, Limits, words_of
from bge_integrations.training.outputs import check_new_file
from bge_integrations.training.row_files import read_rows, write_rows
from bge_integrations.training.rows import TrainingData, TrainingRow
from bge_integrations.training.searching import Query, Ranking, Scoring, search_exactly, search_index
from bge_integrations.training.texts import read_corpus
from bge_integrations.validation import check_choice

if TYPE_CHECKING:
    from bge_integrations.index import M3Index
    from bge_integrations.scoring import Weights

#: Queries whose candidates are judged together.
_TOGETHER = 256


@dataclass(frozen=True)
class Mined:
    """What `mine_negatives` found.

    Attributes:
        rows: The rows with their new negatives, in the order of the data.
        short: Positions of the rows for which fewer negatives were found than asked for.
        filled: Number of negatives that were drawn at random to fill these rows, with `fill=True`.
        dropped: Number of candidates that were dropped, by reason: "positive", "query" and "duplicate" are texts that
            differ at most in case, punctuation and spaces; the others are "score", "margin" and "judge".
    """

    rows: tuple[TrainingRow, ...]
    short: tuple[int, ...]
    filled: int
    dropped: Mapping[str, int]


def mine_negatives(
    data: TrainingData,
    model: str | os.PathLike[str] | Embedder | M3Index,
    output: str | os.PathLike[str] | None = None,
    *,
    corpus: str | os.PathLike[str] | Sequence[str] | None = None,
    negatives: int = 15,
    rank_range: tuple[int, int] = (10, 210),
    mode: Literal["dense", "hybrid"] | None = None,
    weights: Weights | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    margin: float | None = None,
    relative_margin: float | None = None,
    judge: str | os.PathLike[str] | Reranker | None = None,
    judge_margin: float = 1.0,
    sampling: Literal["random", "top"] = "random",
    fill: bool = False,
    query_instruction: str | None = None,
    query_max_length: int | None = None,
    passage_max_length: int | None = None,
    device: str | list[str] | None = None,
    dtype: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Mined:
    """Replace each row's negatives by passages that a model ranks high for its query.

    A negative is never the query itself or a positive of any row with the same query, also if they differ in case,
    punctuation or spaces. The same arguments give the same negatives. Teacher scores of the old negatives are removed.

    Args:
        data: Training rows; see `read_rows`. A row's `prompt` replaces the model's query instruction.
        model: An embedder: its name, or a loaded one. Or an `M3Index`, whose passages are the corpus.
        output: The .jsonl file to write; None writes none.
        corpus: The passages to search: texts, or a .jsonl file with a "text" in each line. None searches the positives
            and negatives of all rows.
        negatives: Number of negatives per row.
        rank_range: (first, end): candidates are the passages with the ranks first to end - 1. Ranks count from 0 and
            include the positives.
        mode: "dense", or "hybrid" for the weighted mean of bge-m3's three scores. None is "hybrid" for an index of
            bge-m3 or if there are weights, and otherwise "dense".
        weights: Weights of the dense, sparse and multi-vector scores in "hybrid". None takes the index's, or weights
            all equally.
        min_score, max_score: Drop candidates with a lower or a higher score.
        margin: Drop candidates, as possible unlabelled positives, unless they score this much below the
            lowest-scoring positive of the query.
        relative_margin: The same as a share of the positive's score: 0.05 drops candidates above 95% of it.
        judge: A reranker. Candidates are dropped unless it scores them `judge_margin` below the lowest positive.
        judge_margin: In logits.
        sampling: "random" draws from the candidates; "top" takes the highest-ranked.
        fill: Fill short rows with passages drawn at random from the corpus.
        query_instruction: As in `load_embedder`.
        query_max_length, passage_max_length: Maximum number of tokens; None uses the model's.
        device, dtype: As in `load_embedder`, for models that are not loaded yet.
        seed: For all random choices.
        overwrite: Replace the output if it exists.
        show_progress: Show a progress bar.

    Raises:
        InvalidInputError: An argument is invalid, or the output exists.
        TrainingDataError: A row is invalid; see `read_rows`.
    """
    target = None if output is None else check_new_file(output, overwrite)
    limits = Limits(rank_range, min_score, max_score, margin, relative_margin)
    chooser = Chooser(limits, negatives, sampling, judge_margin, seed)
    rows = read_rows(data)
    queries = _queries(rows)
    with ExitStack() as stack:
        stack.enter_context(TruncatedTexts())
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        if judge is not None and not isinstance(judge, Reranker):
            judge = stack.enter_context(load_reranker(judge, **placement))
        chooser.judge = judge
        rankings: Iterable[Ranking]
        if isinstance(model, (str, os.PathLike, Embedder)):
            texts = _all_texts(rows) if corpus is None else read_corpus(corpus)
            _check_depth(limits, len(texts))
            chooser.fill_from = texts if fill else None
            embedders = _embedders(model, {query.prompt for query in queries}, query_instruction, placement, stack)
            scoring = _scoring(embedders[None], mode, weights)
            lengths = query_max_length, passage_max_length
            rankings = search_exactly(
                queries, texts, embedders, scoring, limits.depth, lengths, limits.has_margin, show_progress
            )
        else:
            index = _check_index(
                model,
                queries,
                corpus=corpus,
                fill=fill or None,
                query_instruction=query_instruction,
                query_max_length=query_max_length,
                passage_max_length=passage_max_length,
            )
            scoring = _index_scoring(index, mode, weights)
            rankings = search_index(index, queries, scoring, limits.depth, limits.has_margin, show_progress)
        chosen = _choose(chooser, queries, rankings, show_progress)
    mined = tuple(
        replace(row, neg=chosen[position], pos_scores=None, neg_scores=None) for position, row in enumerate(rows)
    )
    if target is not None:
        write_rows(mined, target)
    return Mined(mined, tuple(sorted(chooser.short)), chooser.filled, dict(chooser.dropped))


def _choose(
    chooser: Chooser, queries: Sequence[Query], rankings: Iterable[Ranking], show_progress: bool
) -> dict[int, tuple[str, ...]]:
    """Return the negatives of all rows, by their positions."""
    ranked = zip(queries, rankings, strict=True)
    chosen: dict[int, tuple[str, ...]] = {}
    is_shown = show_progress and chooser.judge is not None and isinstance(rankings, list)  # an index shows its own
    with progress_bar(len(queries), "query", is_shown) as bar:
        while some := list(islice(ranked, _TOGETHER)):
            chosen |= chooser.choose(some)
            bar.update(len(some))
    return chosen


def _queries(rows: Sequence[TrainingRow]) -> list[Query]:
    """Return the different queries, with the positives of all rows that ask the same."""
    positives: dict[str, dict[str, None]] = {}
    positions: dict[tuple[str, str | None], list[int]] = {}
    for position, row in enumerate(rows):
        positives.setdefault(words_of(row.query), {}).update(dict.fromkeys(row.pos))
        positions.setdefault((row.query, row.prompt), []).append(position)
    return [
        Query(text, prompt, tuple(positives[words_of(text)]), tuple(same)) for (text, prompt), same in positions.items()
    ]


def _all_texts(rows: Sequence[TrainingRow]) -> list[str]:
    return list(dict.fromkeys(text for row in rows for text in (*row.pos, *row.neg)))


def _check_depth(limits: Limits, passages: int) -> None:
    if passages <= limits.rank_range[0]:
        raise InvalidInputError(
            f"the ranks {limits.rank_range[0]} to {limits.rank_range[1] - 1} begin after the last of {passages} "
            "passages",
            argument="rank_range",
            advice="start from a lower rank, or search a larger corpus",
        )


def _embedders(
    model: str | os.PathLike[str] | Embedder,
    prompts: set[str | None],
    query_instruction: str | None,
    placement: dict[str, Any],
    stack: ExitStack,
) -> dict[str | None, Embedder]:
    """Return an embedder for each prompt, and for None; all share the model's weights."""
    if not isinstance(model, Embedder):
        instructions = {prompt: query_instruction if prompt is None else prompt for prompt in {None, *prompts}}
        return {
            prompt: stack.enter_context(load_embedder(model, query_instruction=instruction, **placement))
            for prompt, instruction in instructions.items()
        }
    if query_instruction is not None or prompts != {None}:
        raise InvalidInputError(
            "a loaded embedder has its instruction already; it can't take query_instruction or the rows' prompts",
            argument="model",
            advice="pass the model's name",
        )
    return {None: model}


def _scoring(embedder: Embedder, mode: Literal["dense", "hybrid"] | None, weights: Weights | None) -> Scoring:
    check_choice(mode, "mode", (None, "dense", "hybrid"))
    if mode == "dense" and weights is not None:
        raise InvalidInputError(
            f"{spelled('weights')} is for {spelled('mode', 'hybrid')}, not for dense",
            argument="weights",
            advice="leave one of them out",
        )
    if mode == "dense" or (mode is None and weights is None):
        return Scoring("dense")
    if not (embedder.has_sparse and embedder.has_multi_vector):
        raise InvalidInputError(
            f"{embedder.name} has no sparse and multi-vector heads, which hybrid needs",
            argument="mode",
            advice="load bge-m3 (or 'pocket'), or use dense",
        )
    scoring = Scoring("hybrid") if weights is None else Scoring("hybrid", weights)
    weights_by_name(scoring.weights)
    return scoring


def _index_scoring(index: M3Index, mode: Literal["dense", "hybrid"] | None, weights: Weights | None) -> Scoring:
    has_all = len(index.representations) > 1
    scoring = _scoring(index.embedder, mode or ("hybrid" if has_all else None), weights)
    return replace(scoring, weights=index.defaults.weights) if weights is None else scoring


def _check_index(model: object, queries: Sequence[Query], **not_for_an_index: object) -> M3Index:
    """Return the index; queries with a prompt and all other arguments are for embedders."""
    from bge_integrations.index import M3Index  # needs the extra "m3"

    if not isinstance(model, M3Index):
        raise InvalidInputError(
            f"model must be an embedder, its name, or an M3Index, got {type(model).__name__}", argument="model"
        )
    for name, value in not_for_an_index.items():
        if value is not None:
            raise InvalidInputError(
                f"{spelled(name)} can't be used with an index", argument=name, advice="leave it out, or pass the model"
            )
    if any(query.prompt is not None for query in queries):
        raise InvalidInputError(
            "rows have their own prompt, which a search of an index does not use",
            argument="data",
            advice="remove the prompts, or pass the model instead of the index",
        )
    return model
