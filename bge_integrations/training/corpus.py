"""The passages that negatives are mined from: texts, or JSONL files of texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bge_integrations.errors import InvalidInputError
from bge_integrations.validation import check_text, check_texts


def read_corpus(corpus: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Return the different texts of a corpus, in their order, without blank ones.

    Args:
        corpus: Texts, or a .jsonl file with a "text" in each line, as FlagEmbedding's candidate pools and BEIR's
            corpus.jsonl have. A "title" is prepended, as in BEIR.

    Raises:
        InvalidInputError: There is no such file, a line is not an object with a "text", or there is no text.
    """
    is_file = isinstance(corpus, (str, os.PathLike))
    texts = _lines(Path(corpus)) if is_file else check_texts(corpus, "corpus")  # type: ignore[arg-type]
    different = [text for text in dict.fromkeys(texts) if text.strip()]
    if not different:
        raise InvalidInputError("the corpus has no text", argument="corpus")
    return different


def _lines(file: Path) -> Iterator[str]:
    if not file.is_file():
        raise InvalidInputError(f"{file} does not exist", argument="corpus", advice="pass a .jsonl file, or texts")
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise InvalidInputError(f"{where} is not JSON ({error})", argument="corpus") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise InvalidInputError(
                    f"{where} has no text", argument="corpus", advice='write one {"text": "..."} a line'
                )
            title = row.get("title") if isinstance(row.get("title"), str) else ""
            text = f"{title} {row['text']}".strip()
            check_text(text, where)
            yield text
