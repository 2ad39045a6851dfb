"""Read texts to pre-train on: JSONL, folders of text files, or a list."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from bge_integrations.errors import BGEError, InvalidInputError, TrainingDataError
from bge_integrations.training.rows import Location, RowMistake
from bge_integrations.validation import check_text, check_texts

#: What `texts` may be: a path, or the texts themselves.
PretrainingTexts: TypeAlias = str | os.PathLike[str] | Sequence[str]
_JSON, _PLAIN = (".jsonl", ".json"), (".txt", ".md")


def read_texts(source: PretrainingTexts) -> Iterator[str]:
    """Yield the texts that are not blank.

    Args:
        source: A .jsonl file with one object a line, whose `text` is read; a .txt or .md file, which is one text; a
            folder with such files, also in its subfolders; or a list of texts.

    Raises:
        TrainingDataError: A line is not an object with a `text`, or a file is not UTF-8; it names the file and line.
        InvalidInputError: There is no such file, it has another suffix, or a folder has no file to read.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield from filter(str.strip, check_texts(source, "texts"))
        return
    for file in _files(Path(source)):
        texts = _lines(file) if file.suffix in _JSON else iter([_decoded(file.read_bytes(), Location(file, 1))])
        yield from filter(str.strip, texts)


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


def _lines(file: Path) -> Iterator[str]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            location = Location(file, number)
            content = _decoded(line, location)
            if not content.strip():
                continue
            try:
                row = json.loads(content)
                text = row["text"]
                check_text(text, "'text'")
            except BGEError as error:
                raise _mistake(location, error.finding) from error
            except (ValueError, RecursionError) as error:
                raise _mistake(location, f"it is not JSON ({error})") from error
            except (KeyError, TypeError) as error:
                raise _mistake(location, "it is not an object with a 'text'") from error
            yield text


def _decoded(content: bytes, location: Location) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _mistake(location, f"it is not UTF-8 ({error.reason} at byte {error.start + 1})") from error


def _mistake(location: Location, finding: str) -> TrainingDataError:
    return TrainingDataError((RowMistake(location, "text", finding),), 1)
