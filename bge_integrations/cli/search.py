"""`bge search` and `bge ask`: find the best passages of an index, or their best sentences."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.lines import read_lines
from bge_integrations.cli.output import print_json, print_table, say
from bge_integrations.errors import InvalidInputError
from bge_integrations.scoring import Mode

if TYPE_CHECKING:
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.index import Hit

#: Minimum number of passages to rerank.
_CANDIDATES = 20
#: Number of passages that an answer quotes from.
_ANSWER_PASSAGES = 5
#: Number of queries from standard input to encode together.
_BATCH = 64

_Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only passages with this metadata: source=notes/a.md, page=3. Repeat it to combine conditions with AND.",
    ),
]


def search(
    query: Annotated[str, typer.Argument(help="The question; - reads questions from standard input, one per line.")],
    index: options.Index,
    top_n: Annotated[int, typer.Option(min=1, help="Number of passages.")] = 5,
    mode: Annotated[Mode, typer.Option(help="Which scores to rank by.")] = "hybrid",
    filters: _Filters = None,
    rerank: options.OptionalReranker = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Search an index for the best passages."""
    condition = _filter_of(filters)
    queries = _queries_of(query)
    from bge_integrations.core.loading import load_reranker
    from bge_integrations.index import M3Index

    k = max(top_n, _CANDIDATES) if rerank else top_n
    with ExitStack() as stack:
        opened = stack.enter_context(M3Index.open(index, device=device, dtype=dtype, create=False))
        reranker = stack.enter_context(load_reranker(rerank, device=device, dtype=dtype)) if rerank else None
        while batch := list(islice(queries, _BATCH)):
            results = opened.search_many(batch, k, mode=mode, filter=condition)
            for each, hits in zip(batch, results, strict=True):
                best = _reranked(each, hits, reranker)[:top_n] if reranker else hits
                _print_hits(each, best, titled=query == "-", as_json=as_json)


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    index: options.Index,
    top_n: Annotated[int, typer.Option(min=1, help="Number of sentences.")] = 3,
    filters: _Filters = None,
    rerank: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="Reranker that chooses the sentences: hub id, checkpoint folder, or 'pocket'."
        ),
    ] = "BAAI/bge-reranker-v2-m3",
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer a question with the best sentences of an index, and cite their sources."""
    condition = _filter_of(filters)
    _check_query(question)
    from bge_integrations.core.loading import load_reranker
    from bge_integrations.index import M3Index
    from bge_integrations.pipelines.extractive_answers import extract

    with (
        M3Index.open(index, device=device, dtype=dtype, create=False) as opened,
        load_reranker(rerank, device=device, dtype=dtype) as reranker,
    ):
        hits = opened.search(question, _ANSWER_PASSAGES, filter=condition)
        quotes = extract(question, [hit.text for hit in hits], reranker, top_n=top_n) if hits else []
    if not quotes:
        say("no passage found")
    if as_json:
        answer = [
            {"text": quote.text, "score": quote.score, "passage": asdict(hits[quote.passage - 1])} for quote in quotes
        ]
        print_json({"question": question, "answer": answer})
        return
    numbers = {passage: i for i, passage in enumerate(dict.fromkeys(quote.passage for quote in quotes), start=1)}
    for quote in quotes:
        print(f"{quote.text} [{numbers[quote.passage]}]")
    if quotes:
        print()
    for passage, number in numbers.items():
        print(f"[{number}] {hits[passage - 1].id}")


def _queries_of(query: str) -> Iterator[str]:
    if query == "-":
        return (line for _, line in read_lines("-"))
    _check_query(query)
    return iter([query])


def _check_query(query: str) -> None:
    if not query.strip():
        raise InvalidInputError("the question is empty", advice="pass a question")


def _filter_of(pairs: list[str] | None) -> dict[str, Any] | None:
    """Return the filter for KEY=VALUE pairs. A value is a JSON number, bool or string, or else plain text."""
    conditions = []
    for pair in pairs or []:
        if not _is_unicode(pair):
            raise typer.BadParameter(f"{pair!r} is not UTF-8", param_hint="--filter")
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} must be KEY=VALUE", param_hint="--filter")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if not isinstance(value, (str, int, float)) or (isinstance(value, str) and not _is_unicode(value)):
            value = text
        forms = _forms_of(value) if isinstance(value, str) else []
        conditions.append({key: {"$in": forms} if len(forms) > 1 else value})
    return {"$and": conditions} if conditions else None


def _forms_of(text: str) -> list[str]:
    """Return a text in the Unicode forms that systems give to the names of files: "é" is one character or two."""
    return list(dict.fromkeys([text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)]))


def _is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogates, which stand for bytes that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _reranked(query: str, hits: list[Hit], reranker: Reranker) -> list[Hit]:
    scores = reranker.score([(query, hit.text) for hit in hits]).tolist()
    scored = [replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)


def _print_hits(query: str, hits: list[Hit], titled: bool, as_json: bool) -> None:
    if not hits:
        say(f"no passage found for {query!r}")
    if as_json:
        for rank, hit in enumerate(hits, start=1):
            print_json({"query": query, "rank": rank, **asdict(hit)})
        return
    if titled:
        print(f"# {query}")
    print_table(((f"{hit.score:.3f}", hit.id, hit.text) for hit in hits), ("score", "passage", "text"), cut=True)
