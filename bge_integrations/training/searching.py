"""Search for mining: the best passages for each query, in blocks of bounded memory or from an index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bge_integrations.progress import progress_bar
from bge_integrations.scoring import REPRESENTATIONS, representation_scores, weighted_mean, weights_by_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.index import M3Index
    from bge_integrations.index.search_arguments import SearchSettings
    from bge_integrations.outputs import Embeddings
    from bge_integrations.scoring import Weights

#: Queries and passages that are scored at a time; multi-vectors of passages take megabytes each.
_QUERIES, _PASSAGES, _PASSAGES_WITH_MULTI_VECTORS = 1024, 4096, 128
#: Queries that an index answers at a time.
_QUERIES_OF_AN_INDEX = 256


@dataclass(frozen=True)
class Query:
    """A query to search for.

    Attributes:
        text: The query.
        prompt: Its own instruction; None for the model's.
        positives: Texts that answer it, of all rows with this query.
        rows: The positions of the rows with this query and prompt.
    """

    text: str
    prompt: str | None
    positives: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Ranking:
    """What a search found for a query.

    Attributes:
        passages: The best passages in the order of their ranks, as positions in `texts`: int32 (passages,).
        scores: Their scores, float32 (passages,).
        positives: The scores of the query's positives, float32 (positives,); empty if they are not needed.
        texts: All passages.
    """

    passages: NDArray[np.int32]
    scores: NDArray[np.float32]
    positives: NDArray[np.float32]
    texts: Sequence[str]


@dataclass(frozen=True)
class Scoring:
    """How queries and passages are compared.

    Attributes:
        mode: By dense vectors, or by all of bge-m3's.
        weights: The weights of the dense, sparse and multi-vector scores in "hybrid".
    """

    mode: Literal["dense", "hybrid"]
    weights: Weights = (1.0, 1.0, 1.0)

    @property
    def representations(self) -> dict[str, bool]:
        """The keywords of `encode`: whether each representation is needed."""
        needed = weights_by_name(self.weights) if self.mode == "hybrid" else {"dense": 1.0}
        return {name: name in needed for name in REPRESENTATIONS}

    def __call__(self, queries: Embeddings, passages: Embeddings) -> NDArray[np.float32]:
        """Return the scores, float32 (queries, passages)."""
        if self.mode == "dense":
            return representation_scores("dense", queries, passages)
        weights = weights_by_name(self.weights)
        return weighted_mean({name: representation_scores(name, queries, passages) for name in weights}, weights)


def search_exactly(
    queries: Sequence[Query],
    corpus: Sequence[str],
    embedders: Mapping[str | None, Embedder],
    scoring: Scoring,
    depth: int,
    lengths: tuple[int | None, int | None],
    needs_positives: bool,
    show_progress: bool,
) -> list[Ranking]:
    """Score all passages for all queries, and return the best for each query.

    Memory holds the encoded queries, `depth` passages per query, and a block of encoded passages.

    Args:
        queries: The queries.
        corpus: The passages to rank, without repeats.
        embedders: The embedder for each prompt of the queries, and for None.
        scoring: How queries and passages are compared.
        depth: Number of passages to return for each query.
        lengths: Maximum number of tokens of a query and of a passage; None for the model's own.
        needs_positives: Whether to score the positives too.
        show_progress: Show a progress bar.
    """
    outputs: dict[str, Any] = dict(scoring.representations)
    scored = [query.positives if needs_positives else () for query in queries]
    texts = list(dict.fromkeys((*corpus, *(text for positives in scored for text in positives))))
    column_of = {text: column for column, text in enumerate(texts)}
    blocks = []
    for prompt in dict.fromkeys(query.prompt for query in queries):
        positions = [i for i, query in enumerate(queries) if query.prompt == prompt]
        for start in range(0, len(positions), _QUERIES):
            some = positions[start : start + _QUERIES]
            encoded = embedders[prompt].encode(
                [queries[i].text for i in some], kind="query", max_length=lengths[0], **outputs
            )
            columns = [[column_of[text] for text in scored[i]] for i in some]
            blocks.append(_Block(some, encoded, columns, depth))
    size = _PASSAGES_WITH_MULTI_VECTORS if scoring.representations["multi_vector"] else _PASSAGES
    with progress_bar(len(texts), "passage", show_progress) as bar:
        for start in range(0, len(texts), size):
            some_texts = texts[start : start + size]
            passages = embedders[None].encode(some_texts, kind="passage", max_length=lengths[1], **outputs)
            ranked = max(0, min(size, len(corpus) - start))  # the passages after the corpus are positives only
            for block in blocks:
                block.add(scoring(block.encoded, passages), start, ranked)
            bar.update(len(some_texts))
    rankings: dict[int, Ranking] = {}
    for block in blocks:
        rankings |= block.rankings(texts)
    return [rankings[i] for i in range(len(queries))]


def search_index(
    index: M3Index, queries: Sequence[Query], scoring: Scoring, depth: int, needs_positives: bool, show_progress: bool
) -> Iterator[Ranking]:
    """Yield what an index finds for each query, with its positives' scores if they are needed."""
    outputs: dict[str, Any] = dict(scoring.representations)
    settings: SearchSettings = {"mode": scoring.mode, "fusion": "weighted"}
    settings["candidates"] = max(index.defaults.candidates, depth)
    if scoring.mode == "hybrid":
        settings["weights"] = scoring.weights
    with progress_bar(len(queries), "query", show_progress) as bar:
        for start in range(0, len(queries), _QUERIES_OF_AN_INDEX):
            some = queries[start : start + _QUERIES_OF_AN_INDEX]
            texts = [query.text for query in some]
            answers = index.search_many(texts, depth, **settings)
            positives = list(dict.fromkeys(text for query in some for text in query.positives if needs_positives))
            column_of = {text: column for column, text in enumerate(positives)}
            scores = np.zeros((len(some), 0), np.float32)
            if positives:
                encode = index.embedder.encode
                scores = scoring(encode(texts, kind="query", **outputs), encode(positives, kind="passage", **outputs))
            for query, hits, row in zip(some, answers, scores, strict=True):
                yield Ranking(
                    np.arange(len(hits), dtype=np.int32),
                    np.array([hit.score for hit in hits], np.float32),
                    row[[column_of[text] for text in query.positives]] if positives else row,
                    [hit.text for hit in hits],
                )
            bar.update(len(some))


class _Block:
    """Some queries, the best passages for them so far, and the scores of their positives.

    Args:
        positions: The queries' positions.
        encoded: Their vectors.
        columns: For each query, the columns of its positives in the scores of all passages.
        depth: Number of passages to keep for each query.
    """

    def __init__(
        self, positions: Sequence[int], encoded: Embeddings, columns: Sequence[Sequence[int]], depth: int
    ) -> None:
        self.encoded = encoded
        self._positions, self._depth = positions, depth
        self._ends = np.cumsum([len(each) for each in columns])
        self._rows = np.repeat(np.arange(len(columns)), [len(each) for each in columns])
        self._columns = np.concatenate([np.array(each, np.int64) for each in columns])
        self._positives = np.zeros(len(self._columns), np.float32)
        self._best = np.empty((len(positions), 0), np.int32)
        self._scores = np.empty((len(positions), 0), np.float32)

    def add(self, scores: NDArray[np.float32], start: int, ranked: int) -> None:
        """Add the scores of consecutive passages, (queries, passages), of which the first `ranked` are ranked."""
        here = (self._columns >= start) & (self._columns < start + scores.shape[1])
        self._positives[here] = scores[self._rows[here], self._columns[here] - start]
        new = np.broadcast_to(np.arange(start, start + ranked, dtype=np.int32), (len(scores), ranked))
        columns = np.concatenate((self._best, new), axis=1)
        scores = np.concatenate((self._scores, scores[:, :ranked]), axis=1)
        if columns.shape[1] > self._depth:
            kept = np.argpartition(-scores, self._depth - 1, axis=1)[:, : self._depth]
            columns, scores = np.take_along_axis(columns, kept, axis=1), np.take_along_axis(scores, kept, axis=1)
        self._best, self._scores = columns, scores

    def rankings(self, texts: Sequence[str]) -> dict[int, Ranking]:
        """Return the ranking of each query by its position; passages with equal scores are in the corpus's order."""
        order = np.lexsort((self._best, -self._scores), axis=1)
        best, scores = np.take_along_axis(self._best, order, axis=1), np.take_along_axis(self._scores, order, axis=1)
        positives = np.split(self._positives, self._ends[:-1])
        return {
            position: Ranking(best[row], scores[row], positives[row], texts)
            for row, position in enumerate(self._positions)
        }
