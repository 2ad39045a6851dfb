"""What training data consists of, and what in it will do harm: truncation, duplicates, false negatives, leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bge_integrations.training.rows import TrainingRows, normalized

if TYPE_CHECKING:
    from bge_integrations.documents.splitting import CountsTokens
    from bge_integrations.evaluation import Dataset

#: Rows that are named as examples of a problem.
_NAMED = 5


@dataclass(frozen=True)
class Lengths:
    """Tokens per text, special tokens included and instructions not.

    Attributes:
        mean, median, p95, longest: Of all texts.
        limit: Maximum number of tokens; longer texts are truncated.
        truncated: Share of the texts that are longer.
    """

    mean: float
    median: float
    p95: float
    longest: int
    limit: int
    truncated: float


@dataclass(frozen=True)
class Problem:
    """Rows with the same problem.

    Attributes:
        count: Number of rows.
        examples: Where the first of them are.
    """

    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """Statistics of training data. `print` shows them as a table.

    Texts count as the same if their letters and digits are, without regard to case; "exact" ones are equal.

    Attributes:
        rows, queries, passages: Number of rows, of different queries, and of different passages.
        positives, negatives: Number per row, on average.
        with_negatives, with_scores: Number of rows that have negatives, and of those that have teacher scores.
        query_tokens, passage_tokens: Lengths of the queries and of the passages; None without a tokenizer.
        repeated_queries: Rows with the query of an earlier row: in one batch, their positives are each other's
            negatives.
        repeated_passages: Rows that have the same passage twice.
        positives_as_negatives: Rows with a negative that is a positive of the same query, also in another row.
        leaked_queries: Rows with a query of the evaluation.
        leaked_exactly: Those whose query is exactly equal.
        leaked_passages: Rows with a positive that answers a query of the evaluation.
    """

    rows: int
    queries: int
    passages: int
    positives: float
    negatives: float
    with_negatives: int
    with_scores: int
    query_tokens: Lengths | None
    passage_tokens: Lengths | None
    repeated_queries: Problem
    repeated_passages: Problem
    positives_as_negatives: Problem
    leaked_queries: Problem
    leaked_exactly: Problem
    leaked_passages: Problem

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON's types."""
        return asdict(self)

    def table(self, examples: bool = True) -> list[tuple[str, str]]:
        """Return names and values to show; problems that do not occur are left out.

        Args:
            examples: Name the first rows of each problem.
        """
        shown = [
            ("rows", f"{self.rows:,}"),
            ("different queries", f"{self.queries:,}"),
            ("different passages", f"{self.passages:,}"),
            ("positives per row", f"{self.positives:.1f}"),
            ("negatives per row", f"{self.negatives:.1f} ({self.with_negatives:,} rows have any)"),
        ]
        if self.with_scores:
            shown.append(("rows with teacher scores", f"{self.with_scores:,}"))
        for name, lengths in (("tokens per query", self.query_tokens), ("tokens per passage", self.passage_tokens)):
            if lengths:
                shown.append(
                    (
                        name,
                        f"median {lengths.median:.0f}, 95 % up to {lengths.p95:.0f}, longest {lengths.longest:,}; "
                        f"{lengths.truncated:.1%} are longer than {lengths.limit} and get truncated",
                    )
                )
        problems = {
            "rows that repeat a query": self.repeated_queries,
            "rows with a passage twice": self.repeated_passages,
            "rows with a positive as negative": self.positives_as_negatives,
            "rows with a query of the evaluation": self.leaked_queries,
            "of these, exactly equal": self.leaked_exactly,
            "rows with a positive of the evaluation": self.leaked_passages,
        }
        for name, problem in problems.items():
            if problem.count:
                more = "; …" if problem.count > len(problem.examples) else ""
                where = f": {'; '.join(problem.examples)}{more}" if examples else ""
                shown.append((name, f"{problem.count:,}{where}"))
        return shown

    def __str__(self) -> str:
        rows = self.table()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def statistics_of(
    rows: TrainingRows,
    tokens: CountsTokens | None = None,
    *,
    query_max_length: int = 512,
    passage_max_length: int = 512,
    evaluation: Dataset | None = None,
) -> Statistics:
    """Compute statistics of training data.

    Args:
        rows: The rows to train on.
        tokens: Counts tokens: a `TokenCounter` or an `Embedder`; None leaves the lengths out.
        query_max_length, passage_max_length: Maximum tokens of the training.
        evaluation: The data to evaluate with; None leaves the leaks out.
    """
    queries = [normalized(row.query) for row in rows]
    positives = [[normalized(text) for text in row.pos] for row in rows]
    negatives = [[normalized(text) for text in row.neg] for row in rows]
    passages = list(dict.fromkeys(text for row in rows for text in (*row.pos, *row.neg)))
    answers: dict[str, set[str]] = {}
    for query, texts in zip(queries, positives, strict=True):
        answers.setdefault(query, set()).update(texts)
    first_of = dict(zip(reversed(queries), range(len(rows) - 1, -1, -1), strict=True))
    exact, asked, answering = _evaluated(evaluation)
    count = len(rows)
    return Statistics(
        rows=count,
        queries=len(answers),
        passages=len({normalized(text) for text in passages}),
        positives=sum(map(len, positives)) / count,
        negatives=sum(map(len, negatives)) / count,
        with_negatives=sum(map(bool, negatives)),
        with_scores=sum(row.pos_scores is not None for row in rows),
        query_tokens=_lengths(tokens, list(dict.fromkeys(row.query for row in rows)), query_max_length),
        passage_tokens=_lengths(tokens, passages, passage_max_length),
        repeated_queries=_problem(rows, (first_of[query] != i for i, query in enumerate(queries))),
        repeated_passages=_problem(
            rows,
            (max(Counter(pos).values()) > 1 or max(Counter(neg).values(), default=0) > 1
             for pos, neg in zip(positives, negatives, strict=True)),
        ),
        positives_as_negatives=_problem(
            rows, (not answers[query].isdisjoint(neg) for query, neg in zip(queries, negatives, strict=True))
        ),
        leaked_queries=_problem(rows, (query in asked for query in queries)),
        leaked_exactly=_problem(rows, (row.query in exact for row in rows)),
        leaked_passages=_problem(rows, (not answering.isdisjoint(texts) for texts in positives)),
    )  # fmt: skip


def _lengths(tokens: CountsTokens | None, texts: Sequence[str], limit: int) -> Lengths | None:
    if tokens is None:
        return None
    counts = np.array(tokens.count_tokens(texts))
    return Lengths(
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        p95=float(np.percentile(counts, 95)),
        longest=int(counts.max()),
        limit=limit,
        truncated=float((counts > limit).mean()),
    )


def _problem(rows: TrainingRows, has_it: Iterable[bool]) -> Problem:
    found = [i for i, has in enumerate(has_it) if has]
    return Problem(len(found), tuple(str(rows.locations[i]) for i in found[:_NAMED]))


def _evaluated(data: Dataset | None) -> tuple[set[str], set[str], set[str]]:
    """Return the evaluation's queries, the same normalized, and the normalized texts that answer them."""
    if data is None:
        return set(), set(), set()
    exact = {data.queries[key] for key in data.judged}
    relevant = {document for key in data.judged for document, grade in data.qrels[key].items() if grade > 0}
    return exact, set(map(normalized, exact)), {normalized(data.documents[document]) for document in relevant}
