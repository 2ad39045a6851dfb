"""Split texts into passages, measured with the embedding model's tokenizer."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.documents.long_lines import chunk_indices
from bge_integrations.documents.reading import find_files, read_file
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.optional import import_library
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

#: Default passage length in tokens: enough context for an answer, and within every model's limit.
PASSAGE_TOKENS = 256
_log = logging.getLogger(__name__)
#: Base64, hexadecimal and other encoded data: long runs of letters, digits and a few signs that do not form an address.
_ENCODED = re.compile(r"\w+://\S+|([A-Za-z0-9+/=_-]{40,})")
#: Files that are split as Markdown; `read_file` converts HTML to it.
_MARKDOWN = (".md", ".markdown", ".html", ".htm")


@dataclass(frozen=True)
class Passage:
    """A passage of a file.

    Attributes:
        text: The text of the passage; not empty.
        source: The file's path relative to the folder that was read, with "/" and in NFC on every system.
        title: The file's title, or its name if it has no title.
        page: The page of a PDF, from 1; None for other files.
        start: Character offset of the passage in the file's text, or for a PDF in the page's text.
    """

    text: str
    source: str
    title: str
    page: int | None
    start: int

    @property
    def id(self) -> str:
        """An id made of the file and the position in it: "paper.pdf#p3-1200", "notes.md#0"."""
        return f"{self.source}#{'' if self.page is None else f'p{self.page}-'}{self.start}"

    @property
    def metadata(self) -> dict[str, str | int]:
        """The source, title and start, and the page if there is one."""
        metadata: dict[str, str | int] = {"source": self.source, "title": self.title, "start": self.start}
        return metadata if self.page is None else metadata | {"page": self.page}


def read_passages(
    path: str | Path,
    embedder: Embedder,
    *,
    passage_tokens: int | None = None,
    overlap_tokens: int | None = None,
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> Iterator[Passage]:
    """Yield the passages of a file, or of all files in a folder and its subfolders, in order.

    Markdown and HTML are split at headings and blocks if possible, other texts at paragraphs and sentences.

    Args:
        path: A file or a folder; hidden and unsupported files are skipped.
        embedder: Its tokenizer counts the tokens, including the instruction and special tokens, so that `encode` does
            not truncate a passage.
        passage_tokens: Maximum tokens per passage; None means 256, or the embedder's max_length if that is less.
        overlap_tokens: Maximum tokens of a passage that the next one repeats, in whole sentences or words if they fit;
            None means an eighth of passage_tokens.
        on_unreadable: Called with the error of a file that can't be read, which is then skipped; None raises the error.

    Raises:
        InvalidInputError: The path does not exist or has no supported files, or a number is out of range.
        UnreadableFileError: A file is damaged, encrypted, not UTF-8 or has no text; the message names it.
    """
    path = Path(path).expanduser()
    files = find_files(path)
    most = min(PASSAGE_TOKENS, embedder.max_length) if passage_tokens is None else passage_tokens
    check_whole_number(most, "passage_tokens", most=embedder.max_length)
    fixed = embedder.count_tokens([""], kind="passage")[0]
    room = most - fixed
    if room < 1:
        raise InvalidInputError(
            f"passage_tokens={most} leaves no room for text",
            argument="passage_tokens",
            advice=f"use more than the {fixed} tokens of the instruction and the special tokens",
        )
    overlap = room // 8 if overlap_tokens is None else overlap_tokens
    if not 0 <= overlap < room:
        raise InvalidInputError(f"overlap_tokens={overlap} must be from 0 to {room - 1}", argument="overlap_tokens")
    library = import_library("semantic_text_splitter", "files", "reading files")

    def count(text: str) -> int:
        return embedder.count_tokens([text], kind="passage")[0] - fixed

    text_splitter = library.TextSplitter.from_callback(count, room, overlap)
    markdown_splitter = library.MarkdownSplitter.from_callback(count, room, overlap)
    return _split_files(path, files, room, text_splitter, markdown_splitter, on_unreadable)


def _split_files(
    path: Path,
    files: list[Path],
    room: int,
    text_splitter: Any,
    markdown_splitter: Any,
    on_unreadable: Callable[[UnreadableFileError], None] | None,
) -> Iterator[Passage]:
    for file, source in zip(files, sources_of(files, path), strict=True):
        try:
            title, texts = read_file(file)
        except UnreadableFileError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
            continue
        splitter = markdown_splitter if file.suffix.lower() in _MARKDOWN else text_splitter
        passages = 0
        encoded: list[str] = []
        for page, text in texts.items():
            for start, chunk in chunk_indices(splitter, text, room):
                passage = Passage(chunk, source, title, page, start)
                passages += 1
                if _is_encoded(chunk):
                    encoded.append(passage.id)
                yield passage
        if encoded:
            _log.warning(
                "%s: %d of %d passages are encoded data and not text, the first at %s; remove the data from the file",
                file, len(encoded), passages, encoded[0],
            )  # fmt: skip


def _is_encoded(text: str) -> bool:
    """Return whether more than half of a text is encoded data."""
    return 2 * sum(len(run) for run in _ENCODED.findall(text)) > len(text)


def sources_of(files: Sequence[Path], path: Path) -> list[str]:
    """Return the `Passage.source` of each file in `path`, which is a folder or the file itself.

    Sources are in NFC, so that a name is the same on every system. If two names differ only in their form, which some
    file systems allow, the one that is not in NFC stays as it is.
    """
    names = [file.relative_to(path).as_posix() if path.is_dir() else file.name for file in files]
    composed = [unicodedata.normalize("NFC", name) for name in names]
    taken = Counter(composed)
    return [
        name if name != source and taken[source] > 1 else source for name, source in zip(names, composed, strict=True)
    ]
