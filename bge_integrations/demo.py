"""The demonstration behind `make demo`: retrieve and rerank over real documents with LangChain and Chroma.

Run it as `python -m bge_integrations.demo --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from bge_integrations.errors import BGEError, InvalidInputError

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from langchain_core.documents import Document
    from rich.console import Console
    from rich.table import Table

    from bge_integrations.langchain import BGEEmbeddings, BGEReranker

CANDIDATES = 20
SHOWN = 3
_BATCH = 256
_CHUNK_CHARACTERS = 1000
_REAL = "make demo MODEL=BAAI/bge-base-en-v1.5 RERANKER=BAAI/bge-reranker-v2-m3"


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; the exit status is 0, or 1 after a mistake that is explained in one line."""
    parser = argparse.ArgumentParser(prog="bge_integrations.demo", description=__doc__.splitlines()[0])
    setting = os.environ.get  # how `make demo DOCS=… Q=…` passes them
    docs, question = setting("BGE_DEMO_DOCS") or None, setting("BGE_DEMO_QUESTION") or None
    model, reranker_model = setting("BGE_DEMO_MODEL") or "pocket", setting("BGE_DEMO_RERANKER") or "pocket"
    parser.add_argument(
        "--docs", default=docs, help="a folder of .txt and .md files; without it, the bundled documents"
    )
    parser.add_argument("--question", default=question, help="your question; without it, the bundled ones")
    parser.add_argument("--model", default=model, help="embedding model: hub id, folder, or 'pocket'")
    parser.add_argument("--reranker", default=reranker_model, help="reranker: hub id, folder, or 'pocket'")
    options = parser.parse_args(arguments)
    try:
        from rich.console import Console

        from bge_integrations.langchain import BGEEmbeddings, BGEReranker

        console = Console()
        folder = None if options.docs is None else Path(options.docs).expanduser()
        documents, questions = _material(folder, options.question)
        console.print("[bold]Embedding model[/]", options.model, "  [bold]Reranker[/]", options.reranker)
        if "pocket" in (options.model, options.reranker):
            console.print(
                "'pocket' is the small English model bundled with this package to try things out. For real answers:\n"
                f"  {_REAL}\n"
                "It knows words more than meanings, and its reranker is weak: it shows how reranking is wired, not "
                "what it gains.",
                highlight=False,
            )
        with _timed(console, "loaded both models"):
            embeddings = BGEEmbeddings(model=options.model)
            reranker = BGEReranker(model=options.reranker, top_n=None)
        with tempfile.TemporaryDirectory(prefix="bge-demo-", ignore_cleanup_errors=True) as folder_of_store:
            store = _index(console, documents, embeddings, folder_of_store)
            for number, asked in enumerate(questions, start=1):
                _ask(console, store, reranker, asked, f"{number}/{len(questions)}")
    except (BGEError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"demo: {error.name or error} is missing; install what it needs from the project's folder: "
            "pip install '.[demo]'",
            file=sys.stderr,
        )
        return 1
    return 0


def _material(docs: Path | None, question: str | None) -> tuple[list[Document], list[str]]:
    """The documents and the questions, the user's or the bundled ones."""
    if question is not None and not question.strip():
        raise InvalidInputError('the question is empty; ask one with Q="your question"')
    if docs is not None:
        if question is None:
            raise InvalidInputError('what should be asked about your documents? Say it with Q="your question"')
        return read_folder(docs), [question]
    bundled = resources.files("bge_integrations") / "demo_documents"
    passages = _bundled_passages(bundled.joinpath("passages.jsonl").read_text("utf-8"))
    if question is not None:
        return passages, [question]
    lines = bundled.joinpath("questions.jsonl").read_text("utf-8").splitlines()
    return passages, [json.loads(line)["question"] for line in lines]


def _bundled_passages(lines: str) -> list[Document]:
    from langchain_core.documents import Document

    rows = (json.loads(line) for line in lines.splitlines())
    return [
        Document(f"{row['title']}\n{row['text']}", id=row["id"], metadata={"source": f"{row['source']}, {row['id']}"})
        for row in rows
    ]


def read_folder(folder: Path) -> list[Document]:
    """The .txt and .md files below a folder, cut into chunks of about 1000 characters.

    Raises:
        InvalidInputError: No such folder, no such files, only empty ones, or a file that is not UTF-8.
    """
    from langchain_core.documents import Document
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no folder; pass one with .txt or .md files: DOCS=folder")
    files = sorted(
        f
        for f in folder.rglob("*")
        if f.suffix.lower() in {".txt", ".md"} and f.is_file() and not _is_hidden(f.relative_to(folder))
    )
    if not files:
        raise InvalidInputError(f"{folder} has no .txt or .md files")
    splitter = RecursiveCharacterTextSplitter(chunk_size=_CHUNK_CHARACTERS, chunk_overlap=100, add_start_index=True)
    documents = []
    for file in files:
        source = str(file.relative_to(folder))
        try:
            text = file.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{file} is not UTF-8 text ({error.reason}); convert it, or leave it out"
            ) from error
        for chunk in splitter.split_documents([Document(text, metadata={"source": source})]):
            place = f"{source}:{chunk.metadata['start_index']}"
            documents.append(chunk.model_copy(update={"id": sha256(place.encode()).hexdigest()}))
    if not documents:
        raise InvalidInputError(f"the .txt and .md files in {folder} are empty")
    return documents


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _index(console: Console, documents: list[Document], embeddings: BGEEmbeddings, folder: str) -> Chroma:
    """Embed the documents into a Chroma collection in a folder."""
    import chromadb
    from langchain_chroma import Chroma
    from rich.progress import track

    client = chromadb.PersistentClient(folder, settings=chromadb.Settings(anonymized_telemetry=False))
    store = Chroma(
        "demo",
        embedding_function=embeddings,
        client=client,
        collection_configuration={"hnsw": {"space": "cosine"}},  # LangChain's default is l2
    )
    with _timed(console, f"embedded {len(documents)} passages into Chroma on disk ({folder}, removed at the end)"):
        for start in track(range(0, len(documents), _BATCH), "Embedding", console=console, transient=True):
            store.add_documents(documents[start : start + _BATCH])
    return store


def _ask(console: Console, store: Chroma, reranker: BGEReranker, question: str, number: str) -> None:
    """Print the best passages for a question as retrieved, and as reranked."""
    from rich.text import Text

    start = time.perf_counter()
    found = store.similarity_search_with_score(question, k=CANDIDATES)
    retrieved = time.perf_counter()
    ranked = reranker.compress_documents([document for document, _ in found], question)
    reranked = time.perf_counter()
    console.print(f"\n[bold]{number}[/]  ", Text(question, style="bold"), sep="")
    before = [(f"{1 - distance:.3f}", "", document) for document, distance in found[:SHOWN]]
    places = {document.id: place for place, (document, _) in enumerate(found, start=1)}
    after = [
        (f"{document.metadata['relevance_score']:+.2f}", f"was {places[document.id]}", document)
        for document in ranked[:SHOWN]
    ]
    console.print(
        _table(
            f"Retrieved: best {len(before)} of {store._collection.count()}, cosine, {_ms(retrieved - start)}", before
        )
    )
    console.print(_table(f"Reranked: best {len(after)} of {len(found)}, logit, {_ms(reranked - retrieved)}", after))


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
