"""Files to text: .txt, .md, .html and .pdf."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.optional import import_library

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
#: HTML elements whose text is not part of the page's content.
_NOT_CONTENT = ("script", "style", "noscript", "template", "nav", "svg")


def find_files(path: Path) -> list[Path]:
    """Return the readable files below a folder, sorted and without hidden ones; or `path` itself if it is a file.

    Raises:
        InvalidInputError: The path does not exist, a folder in it can't be read, or it holds no file of these kinds.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InvalidInputError(f"{path} is not of the kinds {', '.join(SUFFIXES)}; convert it to one of them")
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


def read_file(file: Path) -> tuple[str, dict[int | None, str]]:
    """Return a file's title and its text: one text per page number for a PDF, one text under None otherwise.

    HTML is converted to Markdown.

    Raises:
        UnreadableFileError: The file can't be read, its name is not UTF-8, or it has no text.
    """
    name = str(file)
    if (shown := name.encode("utf-8", "backslashreplace").decode()) != name:
        raise UnreadableFileError(f"{shown} has a name that is not UTF-8; rename it, or leave it out")
    title, texts = _READERS.get(file.suffix.lower(), _read_text)(file)
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
        raise UnreadableFileError(f"{file} can't be read as a PDF ({error}); repair or decrypt it") from error
    return title.strip(), pages


def _valid(text: str) -> str:
    """Remove NUL characters and lone surrogates, which broken character tables of PDFs produce."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _import(module: str) -> Any:
    return import_library(module, "files", "reading files")


#: How to read each kind of file; other files are read as text.
_READERS = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
