"""The command line that both frameworks' pipelines share: ask a folder of files, print the answer and its sources."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bge_integrations.documents import SUFFIXES
from bge_integrations.errors import BGEError, UnreadableFileError, WrongKindError
from bge_integrations.interrupts import INTERRUPTED, exit_status
from bge_integrations.optional import how_to_install
from bge_integrations.pipelines.answers import Answer, check_question

Pipeline = Literal["dense", "hybrid", "parent"]


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        path: A folder of files or one file; None for the bundled documents.
        question: Not empty.
        pipeline: Which of the three.
        model, reranker: Hub id, folder, or "pocket".
        index: The folder for the index.
    """

    path: Path | None
    question: str
    pipeline: Pipeline
    model: str
    reranker: str
    index: Path


def run(program: str, ask: Callable[[Options], Answer], arguments: list[str] | None = None) -> int:
    """Ask, and print.

    Returns:
        The exit status: 0, 1 after a mistake that is explained in one line, 130 after Ctrl-C, 141 where the reader of
        the output has gone.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description="Answer a question from your documents, with sources; no chat model."
    )
    parser.add_argument(
        "path", nargs="?", type=Path, help=f"a folder of {', '.join(SUFFIXES)}; without it, the bundled documents"
    )
    parser.add_argument("question", help="what you want to know")
    parser.add_argument("--pipeline", choices=get_args(Pipeline), default="dense", help="how passages are found")
    parser.add_argument("--model", type=_name, default="pocket", help="embedding model: hub id, folder, or 'pocket'")
    parser.add_argument("--reranker", type=_name, default="pocket", help="reranker: hub id, folder, or 'pocket'")
    parser.add_argument("--index", type=Path, help="a folder to keep the index in, for the next question")
    given = vars(parser.parse_intermixed_args(arguments))
    if "pocket" in (given["model"], given["reranker"]):
        print(
            "'pocket' is the small English model bundled to try things out; for real answers name others with --model "
            "and --reranker",
            file=sys.stderr,
        )
    try:
        with exit_status("interrupted") as ended:
            check_question(given["question"])
            with tempfile.TemporaryDirectory(prefix="bge-pipeline-", ignore_cleanup_errors=True) as temporary:
                answer = ask(Options(**given | {"index": given["index"] or Path(temporary)}))
            _print(answer)
    except WrongKindError as error:
        print(
            f"{program}: {error.finding}; name an embedding model with --model and a reranker with --reranker",
            file=sys.stderr,
        )
        return 1
    except (BGEError, OSError, ImportError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return ended.status


def _print(answer: Answer) -> None:
    print(answer.text)
    for source in answer.sources:
        page = f", page {source.metadata['page']}" if "page" in source.metadata else ""
        print(f"  [{source.number}] {source.metadata['source']}{page}")


def _name(model: str) -> str:
    if not model:
        raise argparse.ArgumentTypeError("a model's name can't be empty")
    return model


def left_out(error: UnreadableFileError) -> None:
    """Name a file that can't be read; the others are asked."""
    print(f"left out: {error}", file=sys.stderr)


def missing(error: ImportError, module: str) -> BaseException:
    """What to raise for packages that are not installed: in a command one line, else an ImportError."""
    message = f"the pipelines need {error.name}: {how_to_install('pipelines')}"
    return SystemExit(message) if module == "__main__" else ImportError(message, name=error.name)


def interrupted(module: str) -> BaseException:
    """What to raise after Ctrl-C while packages are imported: in a command one line and its exit status."""
    if module != "__main__":
        return KeyboardInterrupt()
    print("interrupted", file=sys.stderr)
    return SystemExit(INTERRUPTED)
