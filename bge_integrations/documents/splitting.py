"""Split files into passages, measured with the embedding model's tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bge_integrations.documents.content import Content, Property
from bge_integrations.documents.encoded_data import is_encoded_data
from bge_integrations.documents.finding import find_files, sources_of
from bge_integrations.documents.packing import Packer
from bge_integrations.documents.reading import read_content
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.optional import import_library
from bge_integrations.validation import check_path, check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.embedder import TextKind

#: Default passage length in tokens: enough context for an answer, and within every model's limit.
PASSAGE_TOKENS = 256
#: By default, a passage has at least a quarter of the maximum, and the next one repeats an eighth.
_LEAST_SHARE, _OVERLAP_SHARE = 4, 8
_log = logging.getLogger(__name__)


class CountsTokens(Protocol):
    """What passages are measured with: an `Embedder`, or a tokenizer alone."""

    @property
    def max_length(self) -> int: ...

    def count_tokens(self, texts: Sequence[str], *, kind: TextKind | None = None) -> list[int]: ...


@dataclass(frozen=True)
class Passage:
    """A passage of a file.

    Attributes:
        text: The text of the passage; not empty. In the middle of a section it begins with the headings above it, and
            in the middle of a table with the table's header.
        source: The file's path relative to the folder that was read, with "/" and in NFC on every system.
        title: The file's title, or its name if it has no title.
        page: The page of a PDF, the slide or the sheet, from 1; None for other files.
        start: Character offset of the passage, without what it repeats, in the file's text, or in the page's text.
        section: The headings that it is under, such as "Bears > Size", or the name of the sheet; "" if there are none.
        properties: What the file says about itself, such as the author and date in Markdown's front matter.
    """

    text: str
    source: str
    title: str
    page: int | None
    start: int
    section: str = ""
    properties: Mapping[str, Property] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """An id made of the file and the position in it: "paper.pdf#p3-1200", "notes.md#0"."""
        return f"{self.source}#{'' if self.page is None else f'p{self.page}-'}{self.start}"

    @property
    def metadata(self) -> dict[str, Property]:
        """The source, title and start, the page and section if there are any, and the properties by their own names."""
        metadata: dict[str, Property] = {"source": self.source, "title": self.title, "start": self.start}
        if self.page is not None:
            metadata["page"] = self.page
        if self.section:
            metadata["section"] = self.section
        return {**self.properties, **metadata}


def read_passages(
    path: str | Path,
    embedder: CountsTokens,
    *,
    passage_tokens: int | None = None,
    min_tokens: int | None = None,
    overlap_tokens: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> Iterator[Passage]:
    """Yield the passages of a file, or of all files in a folder and its subfolders, in order.

    A passage ends between sections if possible, else between blocks, sentences or words. A heading goes with the text
    after it. Tables and code are kept whole if they fit.

    Args:
        path: A file or a folder; hidden and unsupported files are skipped.
        embedder: Its tokenizer counts the tokens, including the instruction and special tokens, so that `encode` does
            not truncate a passage.
        passage_tokens: Maximum tokens per passage; None means 256, or the embedder's max_length if that is less.
        min_tokens: Tokens that a passage should have at least: a shorter one takes text from its neighbours. None means
            a quarter of passage_tokens.
        overlap_tokens: Maximum tokens of a passage that the next one in its section repeats, in whole sentences or
            words if they fit; None means an eighth of passage_tokens.
        include: Patterns as in .gitignore, such as "*.md" or "guides/**"; only files that match one are read.
        exclude: Patterns of files and folders to leave out, such as "drafts/".
        follow_links: Also read linked folders.
        on_unreadable: Called with the error of a file that can't be read, which is then skipped; None raises the error.

    Raises:
        InvalidInputError: The path does not exist or has no supported files, or a number or pattern is invalid.
        UnreadableFileError: A file is damaged, encrypted, in an unknown encoding, or has no text; the message names it.
    """
    path = Path(check_path(path, "path")).expanduser()
    files = find_files(path, include=include, exclude=exclude, follow_links=follow_links)
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
    least = most // _LEAST_SHARE if min_tokens is None else min_tokens
    check_whole_number(least, "min_tokens", least=0, most=most)
    overlap = room // _OVERLAP_SHARE if overlap_tokens is None else overlap_tokens
    check_whole_number(overlap, "overlap_tokens", least=0, most=room - 1)
    import_library("semantic_text_splitter", "files", "reading files")

    def count(texts: Sequence[str]) -> list[int]:
        return [tokens - fixed for tokens in embedder.count_tokens(texts, kind="passage")]

    return _split_files(path, files, Packer(count, room, least, overlap), on_unreadable)


def _split_files(
    path: Path, files: list[Path], packer: Packer, on_unreadable: Callable[[UnreadableFileError], None] | None
) -> Iterator[Passage]:
    for file, source in zip(files, sources_of(files, path), strict=True):
        try:
            content = read_content(file)
        except UnreadableFileError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
            continue
        passages = 0
        encoded: list[str] = []
        for passage in _split_content(content, source, packer):
            passages += 1
            if is_encoded_data(passage.text):
                encoded.append(passage.id)
            yield passage
        if encoded:
            _log.warning(
                "%s: %d of %d passages are encoded data and not text, the first at %s; remove the data from the file",
                file, len(encoded), passages, encoded[0],
            )  # fmt: skip


def _split_content(content: Content, source: str, packer: Packer) -> Iterator[Passage]:
    lengths: dict[int | None, int] = {}  # of the text before a part, by page
    for part in content.parts:
        before = lengths.get(part.page, 0)
        for packed in packer.split(part.text, content.layout):
            section = packed.section or part.section
            yield Passage(
                packed.text, source, content.title, part.page, before + packed.start, section, content.properties
            )
        lengths[part.page] = before + len(part.text) + 2  # a blank line, as in `read_file`
