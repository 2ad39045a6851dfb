"""The command line of both pipelines: answer a question from a folder of files, and print the sources."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bge_integrations.errors import BGEError, UnreadableFileError, WrongKindError
from bge_integrations.interrupts import INTERRUPTED, exit_status
from bge_integrations.optional import how_to_install
from bge_integrations.pipelines.answers import Answer, check_question
from bge_integrations.terminal import prepare_output

Pipeline = Literal["dense", "hybrid", "parent"]


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes:
        path: A folder of files or one file; None for the bundled documents.
        question: The question; not blank.
        pipeline: How to retrieve passages.
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
    """Run the command and print the answer.

    Returns:
        The exit status: 0 on success, 1 after an error (explained in one line), 130 after Ctrl-C, 141 if the output's
        pipe was closed.
    """
    prepare_output()
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description="Answer a question from your documents and cite the sources, without a chat model.",
    )
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        help="file, or folder of files (default: the bundled documents)",
    )
    parser.add_argument("question", help="the question to answer")
    parser.add_argument("--pipeline", choices=get_args(Pipeline), default="dense", help="how to retrieve passages")
    parser.add_argument("--model", type=_name, default="pocket", help="embedding model: hub id, folder, or 'pocket'")
    parser.add_argument("--reranker", type=_name, default="pocket", help="reranker: hub id, folder, or 'pocket'")
    parser.add_argument("--index", type=Path, help="folder to keep the index in for later questions")
    given = vars(parser.parse_intermixed_args(arguments))
    if "pocket" in (given["model"], given["reranker"]):
        print(
            "'pocket' is the small English model bundled for a first try; for real answers, choose others with --model "
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
            f"{program}: {error.finding}; pass an embedding model as --model and a reranker as --reranker",
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
        raise argparse.ArgumentTypeError("the name is empty; pass a model")
    return model


def left_out(error: UnreadableFileError) -> None:
    """Report a file that can't be read and is skipped."""
    print(f"skipped: {error}", file=sys.stderr)


def missing(error: ImportError, module: str) -> BaseException:
    """Return the error to raise for a missing package: a one-line exit in a command, otherwise an ImportError."""
    message = f"the pipelines need {error.name}: {how_to_install('pipelines')}"
    return SystemExit(message) if module == "__main__" else ImportError(message, name=error.name)


def interrupted(module: str) -> BaseException:
    """Return the error to raise after Ctrl-C during imports: in a command, a one-line exit with its status."""
    if module != "__main__":
        return KeyboardInterrupt()
    print("interrupted", file=sys.stderr)
    return SystemExit(INTERRUPTED)
