"""Retrieve passages with LangChain, and rerank them if a reranker is given; `make demo` runs this.

For its options, run `python -m bge_integrations.demo --help`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bge_integrations.demo_documents import bundled_questions
from bge_integrations.documents import Passage, find_files
from bge_integrations.errors import BGEError, InvalidInputError, WrongKindError
from bge_integrations.interrupts import exit_status
from bge_integrations.optional import how_to_install
from bge_integrations.terminal import prepare_output

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from rich.console import Console
    from rich.table import Table

    from bge_integrations.langchain import BGEM3VectorStore, BGEReranker

CANDIDATES = 20
SHOWN = 3
_BATCH = 256
_REAL = {"model": "BAAI/bge-m3", "reranker": "BAAI/bge-reranker-v2-m3"}
#: The variables of `make demo` by the option that they set.
_VARIABLES = {"docs": "DOCS", "question": "Q", "model": "MODEL", "reranker": "RERANKER"}


def main(arguments: list[str] | None = None) -> int:
    """Run the demo.

    Returns:
        The exit status: 0 on success, 1 after an error (explained in one line), 130 after Ctrl-C, 141 if the output's
        pipe was closed.
    """
    prepare_output()
    parser = argparse.ArgumentParser(prog="bge_integrations.demo", description=__doc__.splitlines()[0])
    setting = os.environ.get  # set by `make demo DOCS=… Q=…`
    docs, question = setting("BGE_DEMO_DOCS") or None, setting("BGE_DEMO_QUESTION") or None
    model, reranker_model = setting("BGE_DEMO_MODEL") or "pocket", setting("BGE_DEMO_RERANKER") or None
    parser.add_argument(
        "--docs",
        default=docs,
        help="file, or folder of files (default: the bundled documents)",
    )
    parser.add_argument("--question", default=question, help="your question (default: the bundled questions)")
    parser.add_argument("--model", default=model, help="embedding model: hub id, folder, or 'pocket'")
    parser.add_argument("--reranker", default=reranker_model, help="reranker: hub id or folder (default: none)")
    options = parser.parse_args(arguments)
    try:
        with exit_status("demo: interrupted") as ended:
            _demonstrate(options)
    except WrongKindError as error:
        advice = f"pass an embedding model as {_typed('model')} and a reranker as {_typed('reranker')}"
        print(f"demo: {error.finding}; {advice}", file=sys.stderr)
        return 1
    except (BGEError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"demo: {error.name or error} is not installed: {how_to_install('demo')}", file=sys.stderr)
        return 1
    return ended.status


def _typed(option: str, value: str = "") -> str:
    """Return an option as users type it: after `make demo`, or after `python -m bge_integrations.demo`."""
    if "BGE_DEMO_MODEL" in os.environ:  # set by make, if only to nothing
        return f"{_VARIABLES[option]}={value}"
    return f"--{option} {value}".strip()


def _demonstrate(options: argparse.Namespace) -> None:
    """Retrieve, rerank and print the results."""
    from rich.console import Console

    from bge_integrations.langchain import BGEM3VectorStore, BGEReranker
    from bge_integrations.pipelines.passages import passages_of

    console = Console()
    folder = None if options.docs is None else Path(options.docs).expanduser()
    questions = _questions(folder, options.question)
    console.print("[bold]Embedding model[/]", options.model, "  [bold]Reranker[/]", options.reranker or "none")
    if options.model == "pocket":
        console.print(
            "'pocket' is the small English model bundled with this package for a first try. It has no reranker that "
            "improves this search. For real answers:\n"
            f"  {_command()}",
            highlight=False,
        )
    with tempfile.TemporaryDirectory(prefix="bge-demo-", ignore_cleanup_errors=True) as store_folder:
        with _timed(console, "loaded the models" if options.reranker else "loaded the model"):
            store = BGEM3VectorStore.from_texts([], path=store_folder, model=options.model)
            reranker = BGEReranker(model=options.reranker, top_n=None) if options.reranker else None
        with closing(store):
            passages = passages_of(
                folder, options.model, lambda error: console.print(f"skipped: {error}", highlight=False, markup=False)
            )
            _add(console, store, passages)
            for number, question in enumerate(questions, start=1):
                _ask(console, store, reranker, question, f"{number}/{len(questions)}")


def _command() -> str:
    """Return the command that runs the demo with real models."""
    start = "make demo" if "BGE_DEMO_MODEL" in os.environ else "python -m bge_integrations.demo"
    return " ".join([start, *(_typed(option, model) for option, model in _REAL.items())])


def _questions(docs: Path | None, question: str | None) -> list[str]:
    """Return the user's question or the bundled questions, after checking that there are documents to search."""
    if question is not None and not question.strip():
        raise InvalidInputError("the question is empty", advice=_ask_one())
    if docs is not None:
        if question is None:
            raise InvalidInputError("there is no question about your documents", advice=_ask_one())
        find_files(docs)
    if question is not None:
        return [question]
    return bundled_questions()


def _ask_one() -> str:
    return "ask one with " + _typed("question", '"your question"')


def _add(console: Console, store: BGEM3VectorStore, passages: list[Passage]) -> None:
    """Add the passages to the store."""
    from langchain_core.documents import Document
    from rich.progress import track

    documents = [Document(passage.text, id=passage.id, metadata=passage.metadata) for passage in passages]
    where = f"on disk ({store.index.location}, deleted at the end)"
    with _timed(console, f"indexed {len(documents)} passages in an M3Index {where}"):
        for start in track(range(0, len(documents), _BATCH), "Indexing", console=console, transient=True):
            store.add_documents(documents[start : start + _BATCH])


def _ask(console: Console, store: BGEM3VectorStore, reranker: BGEReranker | None, question: str, number: str) -> None:
    """Print the best passages for a question, and those after reranking."""
    from rich.text import Text

    start = time.perf_counter()
    candidates = store.similarity_search_with_score(question, k=CANDIDATES)
    retrieved = time.perf_counter()
    console.print(f"\n[bold]{number}[/]  ", Text(question, style="bold"), sep="")
    before = [(f"{score:.3f}", "", document) for document, score in candidates[:SHOWN]]
    scores = "cosine" if len(store.index.representations) == 1 else "mean of dense, sparse and multi-vector scores"
    title = f"Retrieved: best {len(before)} of {len(store.index)}, {scores}, {_ms(retrieved - start)}"
    console.print(_table(title, before))
    if reranker is None:
        return
    start = time.perf_counter()
    ranked = reranker.compress_documents([document for document, _ in candidates], question)
    reranked = time.perf_counter()
    ranks = {document.id: rank for rank, (document, _) in enumerate(candidates, start=1)}
    after = [
        (f"{document.metadata['relevance_score']:+.2f}", f"was {ranks[document.id]}", document)
        for document in ranked[:SHOWN]
    ]
    title = f"Reranked: best {len(after)} of {len(candidates)}, logit, {_ms(reranked - start)}"
    console.print(_table(title, after))


def _table(title: str, rows: list[tuple[str, str, Document]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="italic", box=box.SIMPLE, show_header=False)
    table.add_column("score", justify="right", style="cyan", no_wrap=True)
    table.add_column("before", style="dim", no_wrap=True)
    table.add_column("source and text")
    for score, before, document in rows:
        text = " ".join(document.page_content.split())
        shown = text if len(text) <= 220 else text[:219] + "…"
        table.add_row(score, before, Text.assemble((document.metadata["source"], "green"), "\n", shown))
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


@contextmanager
def _timed(console: Console, what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    console.print(f"{what} in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
