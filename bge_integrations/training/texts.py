"""Texts without questions: the passages that negatives are mined from, and texts to pre-train on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from bge_integrations.errors import InvalidInputError
from bge_integrations.lines import read_rows
from bge_integrations.validation import check_texts

#: A path, or the texts themselves.
Texts: TypeAlias = str | os.PathLike[str] | Sequence[str]
_JSON, _PLAIN = (".jsonl", ".json"), (".txt", ".md")


def read_corpus(corpus: Texts) -> list[str]:
    """Return the different texts of a corpus, in their order, without blank ones.

    Args:
        corpus: Texts, or a .jsonl file with a "text" in each line, as FlagEmbedding's candidate pools and BEIR's
            corpus.jsonl have. A "title" is prepended, as in BEIR.

    Raises:
        InvalidInputError: There is no such file, a line is not an object with a "text", or there is no text.
    """
    if not isinstance(corpus, (str, os.PathLike)):
        texts = check_texts(corpus, "corpus")
    elif not Path(corpus).is_file():
        raise InvalidInputError(f"{corpus} does not exist", argument="corpus", advice="pass a .jsonl file, or texts")
    else:
        rows = read_rows(os.fspath(corpus), "text")
        titled = ((row["title"] if isinstance(row.get("title"), str) else "", row["text"]) for row in rows)
        texts = [f"{title} {text}".strip() for title, text in titled]
    different = list(dict.fromkeys(filter(str.strip, texts)))
    if not different:
        raise InvalidInputError("the corpus has no text", argument="corpus")
    return different


def read_texts(texts: Texts) -> Iterator[str]:
    """Yield the texts to pre-train on, without blank ones.

    Args:
        texts: A .jsonl file with one object a line, whose `text` is read; a .txt or .md file, which is one text; a
            folder with such files, also in its subfolders; or a list of texts.

    Raises:
        InvalidInputError: A line is not an object with a `text`, or a file is not UTF-8 (it names the file and line);
            there is no such file, it has another suffix, or a folder has no file to read.
    """
    if not isinstance(texts, (str, os.PathLike)):
        yield from filter(str.strip, check_texts(texts, "texts"))
        return
    for file in _files(Path(texts)):
        read = (row["text"] for row in read_rows(str(file), "text")) if file.suffix in _JSON else iter([_content(file)])
        yield from filter(str.strip, read)


def _files(path: Path) -> list[Path]:
    suffixes = _JSON + _PLAIN
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.suffix in suffixes and file.is_file()]
    elif not path.is_file():
        raise InvalidInputError(f"{path} does not exist", argument="texts", advice="check the path")
    else:
        found = [path] if path.suffix in suffixes else []
    if not found:
        kind = "the folder has no" if path.is_dir() else "it is not a"
        raise InvalidInputError(f"{path}: {kind} {', '.join(suffixes)} file", argument="texts")
    return found


def _content(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start + 1})", argument="texts", advice="convert it"
        ) from error
