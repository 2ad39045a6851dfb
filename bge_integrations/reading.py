"""Files become passages: .txt, .md, .html and .pdf, cut by the model's own tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.optional import import_library
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Embedder

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
#: Tokens of a passage unless the caller says otherwise: an answer's surroundings, and within every model's length.
PASSAGE_TOKENS = 256
_MARKDOWN = (".md", ".markdown", ".html", ".htm")
_NOT_CONTENT = ("script", "style", "noscript", "template", "nav", "svg")


@dataclass(frozen=True)
class Passage:
    """A piece of a file.

    Attributes:
        text: Not empty.
        source: The file, relative to the folder that was read, with "/" on every system.
        title: The file's own title, or else its name.
        page: The page of a PDF, from 1; None for other files.
        start: Where the text begins in the file's text (in the page's text of a PDF), in characters.
    """

    text: str
    source: str
    title: str
    page: int | None
    start: int

    @property
    def id(self) -> str:
        """The same for the same place of the same file: "notes/backup.md#0", "paper.pdf#p3-1200"."""
        return f"{self.source}#{'' if self.page is None else f'p{self.page}-'}{self.start}"

    @property
    def metadata(self) -> dict[str, str | int]:
        """source, title, start, and page where there is one."""
        found: dict[str, str | int] = {"source": self.source, "title": self.title, "start": self.start}
        return found if self.page is None else found | {"page": self.page}


def find_files(path: Path) -> list[Path]:
    """The readable files below a folder, sorted, without hidden ones; or the one file that `path` is.

    Raises:
        InvalidInputError: There is no such file or folder, a folder in it can't be read, or nothing can.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InvalidInputError(f"{path} is none of {', '.join(SUFFIXES)}; convert it to one of them")
        return [path]
    if not path.is_dir():
        raise InvalidInputError(f"there is no file or folder {path}")
    files = sorted(file for file in _visible(path) if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InvalidInputError(f"{path} has no files of the kinds {', '.join(SUFFIXES)}")
    return files


def _visible(path: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise InvalidInputError(
        f"{error.filename} can't be read ({error.strerror}); make it readable, or move it out of the folder"
    ) from error


def read_passages(
    path: str | Path,
    embedder: Embedder,
    *,
    passage_tokens: int | None = None,
    overlap_tokens: int | None = None,
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> Iterator[Passage]:
    """The passages of a file, or of all the files below a folder, in their order.

    Markdown and HTML are cut at headings and blocks where that is possible, other text at paragraphs and sentences.

    Args:
        path: A file or a folder; hidden files and files of other kinds are left out.
        embedder: Its tokenizer counts, its instruction and special tokens included: no passage is cut by `encode`.
        passage_tokens: The longest passage; None takes 256, or the embedder's max_length where that is less.
        overlap_tokens: At most so much of a passage's end is repeated by the next, in whole sentences or words where
            that fits; None takes an eighth of passage_tokens.
        on_unreadable: Called with the error of a file that can't be read, which is then left out; None raises it.

    Raises:
        InvalidInputError: There is no such path, nothing in it can be read, or a number can't be used.
        UnreadableFileError: A file is damaged, encrypted, not UTF-8 or has no text; it says which.
    """
    path = Path(path).expanduser()
    files = find_files(path)
    longest = min(PASSAGE_TOKENS, embedder.max_length) if passage_tokens is None else passage_tokens
    check_whole_number(longest, "passage_tokens", most=embedder.max_length)
    fixed = embedder.count_tokens([""], kind="passage")[0]
    room = longest - fixed
    if room < 1:
        raise InvalidInputError(f"passage_tokens={longest} leaves no room beside {fixed} tokens that are always there")
    overlap = room // 8 if overlap_tokens is None else overlap_tokens
    if not 0 <= overlap < room:
        raise InvalidInputError(f"overlap_tokens={overlap} must be from 0 to {room - 1}")
    splitters = _splitters(embedder, fixed, room, overlap)
    return _passages(path, files, splitters, on_unreadable)


def _passages(
    path: Path,
    files: list[Path],
    splitters: dict[bool, Any],
    on_unreadable: Callable[[UnreadableFileError], None] | None,
) -> Iterator[Passage]:
    for file in files:
        source = (file.relative_to(path) if path.is_dir() else Path(file.name)).as_posix()
        splitter = splitters[file.suffix.lower() in _MARKDOWN]
        try:
            title, texts = read_file(file)
        except UnreadableFileError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
            continue
        for page, text in texts.items():
            for start, chunk in splitter.chunk_indices(text):
                yield Passage(chunk, source, title, page, start)


def _splitters(embedder: Embedder, fixed: int, room: int, overlap: int) -> dict[bool, Any]:
    """For text, and for Markdown."""
    library = _import("semantic_text_splitter")

    def tokens(text: str) -> int:
        return embedder.count_tokens([text], kind="passage")[0] - fixed

    return {
        markdown: splitter.from_callback(tokens, room, overlap)
        for markdown, splitter in ((False, library.TextSplitter), (True, library.MarkdownSplitter))
    }


def read_file(file: Path) -> tuple[str, dict[int | None, str]]:
    """The title and the text of a file; of a PDF the text of each page by its number, else one text by None.

    HTML becomes Markdown.

    Raises:
        UnreadableFileError: It can't be read, its name is not UTF-8, or there is no text in it.
    """
    name = str(file)
    if (shown := name.encode("utf-8", "backslashreplace").decode()) != name:
        raise UnreadableFileError(f"{shown} has a name that is not UTF-8; rename it, or leave it out")
    readers = {".pdf": _read_pdf, ".html": _read_html, ".htm": _read_html, ".md": _read_markdown}
    read = readers.get(file.suffix.lower(), _read_markdown if file.suffix.lower() == ".markdown" else _read_text)
    title, texts = read(file)
    texts = {page: text for page, text in texts.items() if text.strip()}
    if not texts:
        scanned = "; a scanned one needs text recognition (OCR) first" if file.suffix.lower() == ".pdf" else ""
        raise UnreadableFileError(f"{file} has no text{scanned}")
    return title or file.stem, texts


def _read_text(file: Path) -> tuple[str, dict[int | None, str]]:
    try:
        return "", {None: file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")}
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{file} is not UTF-8 text ({error.reason}); convert it, or leave it out") from error


def _read_markdown(file: Path) -> tuple[str, dict[int | None, str]]:
    _, texts = _read_text(file)
    heading = next((line for line in str(texts[None]).splitlines() if line.startswith("# ")), "")
    return heading.removeprefix("# ").strip(), texts


def _read_html(file: Path) -> tuple[str, dict[int | None, str]]:
    soup_library, markdownify = _import("bs4"), _import("markdownify")
    try:
        soup = soup_library.BeautifulSoup(file.read_bytes(), "html.parser")
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for element in soup(_NOT_CONTENT):
        element.decompose()
    converter = markdownify.MarkdownConverter(heading_style="ATX", strip=["a", "img"])
    try:
        return title, {None: converter.convert_soup(soup.body or soup).strip()}
    except RecursionError as error:
        raise UnreadableFileError(f"{file} is nested too deeply; save it as text or with fewer levels") from error


def _read_pdf(file: Path) -> tuple[str, dict[int | None, str]]:
    library = _import("pypdf")
    try:
        reader = library.PdfReader(file)
        pages: dict[int | None, str] = {
            number: _valid(page.extract_text()) for number, page in enumerate(reader.pages, start=1)
        }
        title = _valid(str((reader.metadata or {}).get("/Title") or ""))
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    except Exception as error:  # pypdf raises many kinds on damaged and encrypted files
        raise UnreadableFileError(f"{file} is no PDF that can be read ({error}); repair or decrypt it") from error
    return title.strip(), pages


def _valid(text: str) -> str:
    """Without what some PDFs' tables of characters make: zeros, and halves of surrogate pairs."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _import(module: str) -> Any:
    return import_library(module, "files", "reading files")
