"""`bge search` and `bge ask`: find the best passages of an index, or their best sentences."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, print_table, say
from bge_integrations.errors import IndexLockedError, IndexNotFoundError, InvalidInputError
from bge_integrations.lines import read_lines
from bge_integrations.representations import Mode
from bge_integrations.validation import check_takes_images

if TYPE_CHECKING:
    from bge_integrations.core.reranker import Reranker
    from bge_integrations.index import Hit, M3Index
    from bge_integrations.index.search_arguments import DefaultSettings

#: Minimum number of passages to rerank.
_CANDIDATES = 20
#: Number of passages that an answer quotes from.
_ANSWER_PASSAGES = 5
#: Number of queries from standard input to encode together.
_BATCH = 64

#: Seconds to wait for an index that another process has open, and between two tries.
_PATIENCE, _PAUSE = 10, 0.2

#: The names of the option for a reranker.
_RERANK = ("--rerank", "--reranker")
#: Its value for no reranker.
_NONE = "none"

_Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only passages with this metadata: source=notes/a.md, page=3. Repeat it to combine conditions with AND.",
    ),
]


def search(
    index: options.Index,
    query: Annotated[
        str | None, typer.Argument(help="The question; - reads questions from standard input, one per line.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Search by this picture, or by it and QUERY, if the model takes images."),
    ] = None,
    top_n: Annotated[int, typer.Option(min=1, help="Number of passages.")] = 5,
    mode: Annotated[
        Mode | None, typer.Option(help="Which scores to rank by. Defaults to the index's default, or to all it has.")
    ] = None,
    weights: options.SearchWeights = None,
    candidates: options.Candidates = None,
    filters: _Filters = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            *_RERANK,
            metavar="MODEL",
            help="Rerank with this model: hub id, checkpoint folder, or 'pocket'. Off by default, or with 'none'.",
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Search an index for the best passages."""
    condition = _filter_of(filters)
    given = _given(mode, weights, candidates)
    queries = _queries_of(query, image)
    from bge_integrations.core.loading import load_reranker

    reranker_name = None if rerank == _NONE else rerank
    if image is not None and reranker_name is not None:
        raise InvalidInputError("rerankers read texts only", advice="leave out --rerank, or --image")
    k = max(top_n, _CANDIDATES) if reranker_name else top_n
    with ExitStack() as stack:
        opened = stack.enter_context(_open(index, device, dtype))
        if image is not None:
            check_takes_images(opened.embedder)
        settings = _settings_of(opened, given)
        reranker = None
        if reranker_name is not None:
            reranker = stack.enter_context(load_reranker(reranker_name, device=device, dtype=dtype))
        while batch := list(islice(queries, _BATCH)):
            inputs: list[Any] = batch if image is None else [{"image": image, "text": text} for text in batch]
            results = opened.search_many(inputs, k, filter=condition, **given)
            for each, hits in zip(batch, results, strict=True):
                best = _reranked(each, hits, reranker)[:top_n] if reranker and each is not None else hits
                if not best:
                    say("no passage found" if each is None else f"no passage found for {each!r}")
                if as_json:
                    asked = {"query": each} if image is None else {"query": each, "image": image}
                    _print_rows(asked, best, {"search": settings, "reranker": reranker_name})
                else:
                    _print_hits(each if query == "-" else None, best)


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    index: options.Index,
    top_n: Annotated[int, typer.Option(min=1, help="Number of sentences.")] = 3,
    weights: options.SearchWeights = None,
    candidates: options.Candidates = None,
    filters: _Filters = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            *_RERANK,
            metavar="MODEL",
            help="Reranker that chooses the sentences: hub id, checkpoint folder, or 'pocket'; 'none' chooses them by "
            "the index's model. Defaults to the reranker that goes with that model.",
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer a question with the best sentences of an index, and cite their sources."""
    condition = _filter_of(filters)
    given = _given(None, weights, candidates)
    _check_query(question)
    from bge_integrations.core.loading import load_reranker
    from bge_integrations.pipelines.extractive_answers import EmbedderScorer, Scorer, extract

    with ExitStack() as stack:
        opened = stack.enter_context(_open(index, device, dtype))
        settings = _settings_of(opened, given)
        reranker = _reranker_of(opened, rerank)
        scorer: Scorer = EmbedderScorer(opened.embedder)
        if reranker is not None:
            scorer = stack.enter_context(load_reranker(reranker, device=device, dtype=dtype))
        hits = opened.search(question, _ANSWER_PASSAGES, filter=condition, **given)
        quotes = extract(question, [hit.text for hit in hits], scorer, top_n=top_n) if hits else []
    if not quotes:
        say("no passage found")
    if as_json:
        answer = [
            {"text": quote.text, "score": quote.score, "passage": asdict(hits[quote.passage - 1])} for quote in quotes
        ]
        print_json({"question": question, "answer": answer, "search": settings, "reranker": reranker})
        return
    numbers = {passage: i for i, passage in enumerate(dict.fromkeys(quote.passage for quote in quotes), start=1)}
    for quote in quotes:
        print(f"{quote.text} [{numbers[quote.passage]}]")
    if quotes:
        print()
    for passage, number in numbers.items():
        print(f"[{number}] {hits[passage - 1].id}")


def _open(index: str, device: list[str] | None, dtype: str | None) -> M3Index:
    """Open an index, or a copy of it if it can't be written, and wait a while if another process has it open.

    Raises:
        IndexNotFoundError: There is no index.
        IndexLockedError: The other process still has it open.
    """
    from bge_integrations.index import M3Index
    from bge_integrations.index.files import disk_use
    from bge_integrations.index.folder import IndexFiles

    files = IndexFiles(index)
    if not files.path.is_dir() or files.manifest() is None:
        raise IndexNotFoundError(
            f"there is no index in {index}", advice="check the path, or create one with `bge index`"
        )
    read_only = not files.can_be_written()
    if read_only:
        size = disk_use(files.path) / (1 << 20)
        say(f"{index} can't be written, so this searches a temporary copy of {size:.1f} MB")
    deadline = time.monotonic() + _PATIENCE
    waiting = False
    while True:
        try:
            return M3Index.open(index, device=device, dtype=dtype, create=False, read_only=read_only)
        except IndexLockedError as error:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                say(f"{error.finding}; waiting up to {_PATIENCE} seconds for it")
            waiting = True
        time.sleep(_PAUSE)


def _given(mode: Mode | None, weights: str | None, candidates: int | None) -> DefaultSettings:
    """Return the options that were given as arguments of `M3Index.search`.

    Raises:
        InvalidInputError: An option is invalid, or has no effect in this mode.
    """
    given: DefaultSettings = {}
    if mode is not None:
        given["mode"] = mode
    if weights is not None:
        given["weights"] = options.parse_weights(weights)
    if candidates is not None:
        given["candidates"] = candidates
    ineffective = {"hybrid": [], "multi_vector": ["weights"]}.get(mode or "hybrid", ["weights", "candidates"])
    if unused := [name for name in ineffective if name in given]:
        raise InvalidInputError(f"--{unused[0]} has no effect with --mode {mode}", advice="leave one of them out")
    return given


def _settings_of(opened: M3Index, given: DefaultSettings) -> dict[str, Any]:
    """Return the settings that a search uses, and say which of them are the index's own."""
    from bge_integrations.index.search_arguments import NO_DEFAULTS, SearchDefaults

    usual = asdict(SearchDefaults.of(opened.representations, NO_DEFAULTS))
    if "weights" in given:
        given = {"mode": "hybrid", **given}
    settings = {**asdict(opened.defaults), **given}
    effective = {"hybrid": ("mode", "weights", "fusion", "candidates"), "multi_vector": ("mode", "candidates")}
    settings = {name: settings[name] for name in effective.get(settings["mode"], ("mode",))}
    own = [f"{name} {_shown(value)}" for name, value in settings.items() if name not in given and value != usual[name]]
    if own:
        say(f"defaults of this index: {', '.join(own)}")
    return settings


def _shown(value: object) -> str:
    return ",".join(f"{weight:g}" for weight in value) if isinstance(value, tuple) else str(value)


def _reranker_of(opened: M3Index, rerank: str | None) -> str | None:
    """Return the reranker to use: the given one, or the one that goes with the index's model. None for "none"."""
    if rerank is not None:
        return None if rerank == _NONE else rerank
    from bge_integrations.pipelines.rerankers import reranker_for

    model = opened.embedder.name
    reranker = reranker_for(model)
    if reranker is None:
        say(f"the sentences are chosen by the index's own model {model}; choose a reranker with --rerank")
    else:
        say(f"the sentences are chosen by {reranker}, which goes with the index's model {model}")
    return reranker


def _queries_of(query: str | None, image: str | None) -> Iterator[str | None]:
    """Return the questions; None stands for an image without one."""
    if image is not None:
        from bge_integrations.documents.pictures import check_picture

        check_picture(Path(image))
    elif query is None:
        raise typer.BadParameter("pass a question, or a picture with --image", param_hint="QUERY")
    if query is None:
        return iter([None])
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


def _print_rows(asked: dict[str, Any], hits: list[Hit], settings: dict[str, Any]) -> None:
    for rank, hit in enumerate(hits, start=1):
        print_json({**asked, "rank": rank, **asdict(hit), **settings})


def _print_hits(title: str | None, hits: list[Hit]) -> None:
    if title is not None:
        print(f"# {title}")
    print_table(((f"{hit.score:.3f}", hit.id, hit.text) for hit in hits), ("score", "passage", "text"), cut=True)
