"""Read the text of .txt, .md, .html and .pdf files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bge_integrations.documents.data_uris import without_data_uris
from bge_integrations.documents.html import read_html
from bge_integrations.documents.pdf_text import join_divided_words, normalise
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.optional import how_to_install, import_library

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")


def find_files(path: Path) -> list[Path]:
    """Return the supported files in a folder and its subfolders, sorted and without hidden ones; or `path`, if a file.

    Raises:
        InvalidInputError: The path does not exist, contains no supported file, or has a folder that can't be read.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InvalidInputError(
                f"{path} is not a supported file", advice=f"convert it to one of {', '.join(SUFFIXES)}"
            )
        return [path]
    if not path.is_dir():
        raise InvalidInputError(f"{path} does not exist", advice="check the path")
    files = sorted(file for file in _walk_visible(path) if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InvalidInputError(
            f"{path} contains no supported files", advice=f"add files that end with {', '.join(SUFFIXES)}"
        )
    return files


def passed_over(path: Path) -> dict[str, int]:
    """Count by kind what `find_files` leaves out of a folder: ".docx", "without suffix", "hidden", "linked folder".

    A hidden or linked folder counts once. The most frequent kinds come first; a file has none.
    """
    kinds: Counter[str] = Counter()
    for folder, folders, names in os.walk(path):
        visible = [name for name in folders if not name.startswith(".")]
        kinds["hidden"] += len(folders) - len(visible)
        folders[:] = [name for name in visible if not Path(folder, name).is_symlink()]
        kinds["linked folder"] += len(visible) - len(folders)
        kinds.update(kind for name in names if (kind := _kind_passed_over(Path(folder, name))))
    return dict(sorted((+kinds).items(), key=lambda item: (-item[1], item[0])))


def _kind_passed_over(file: Path) -> str | None:
    """Return the kind of a file that is not read, or None if it is."""
    if file.name.startswith("."):
        return "hidden"
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        return suffix.encode("utf-8", "backslashreplace").decode() or "without suffix"
    return None if file.is_file() else "broken link" if file.is_symlink() else "not a file"


def _walk_visible(path: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path, onerror=_raise_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _raise_unreadable(error: OSError) -> None:
    raise InvalidInputError(
        f"{error.filename} can't be read ({error.strerror})", advice="make it readable, or move it out of the folder"
    ) from error


def read_file(file: Path) -> tuple[str, dict[int | None, str]]:
    """Return a file's title and its text by page number for a PDF, or under None for other files.

    HTML is converted to Markdown. `data:` URIs are left out of Markdown.

    Raises:
        UnreadableFileError: The file can't be read, its name is not UTF-8, or it contains no text.
    """
    name = str(file)
    if (shown := name.encode("utf-8", "backslashreplace").decode()) != name:
        raise UnreadableFileError(
            f"{shown} has a name that is not UTF-8", advice="rename it, or move it out of the folder"
        )
    title, texts = _READERS.get(file.suffix.lower(), _read_text)(file)
    texts = {page: text for page, text in texts.items() if text.strip()}
    if not texts:
        advice = "if it is scanned, run text recognition (OCR) first" if file.suffix.lower() == ".pdf" else None
        raise UnreadableFileError(f"{file} has no text", advice=advice)
    return title or file.stem, texts


def _read_text(file: Path) -> tuple[str, dict[int | None, str]]:
    try:
        return "", {None: file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")}
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{file} is not UTF-8 text ({error.reason})", advice="convert it to UTF-8") from error


def _read_markdown(file: Path) -> tuple[str, dict[int | None, str]]:
    _, texts = _read_text(file)
    text = without_data_uris(texts[None])
    heading = next((line for line in text.splitlines() if line.startswith("# ")), "")
    return heading.removeprefix("# ").strip(), {None: text}


def _read_html(file: Path) -> tuple[str, dict[int | None, str]]:
    try:
        title, text = read_html(file.read_bytes())
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    except RecursionError as error:
        raise UnreadableFileError(
            f"{file} is nested too deeply", advice="save it as text, or with fewer levels"
        ) from error
    return title, {None: text}


def _read_pdf(file: Path) -> tuple[str, dict[int | None, str]]:
    library = _import("pypdf")
    try:
        reader = library.PdfReader(file)
        texts = [normalise(page.extract_text()) for page in reader.pages]
        title = normalise(str((reader.metadata or {}).get("/Title") or ""))
    except OSError as error:
        raise UnreadableFileError(f"{file} can't be read: {error.strerror}") from error
    except library.errors.DependencyError as error:
        raise UnreadableFileError(
            f"{file} is encrypted, and reading it needs the package cryptography", advice=how_to_install("files")
        ) from error
    except library.errors.FileNotDecryptedError as error:
        raise UnreadableFileError(
            f"{file} is encrypted and needs a password", advice="save a copy without a password, and index that"
        ) from error
    except Exception as error:  # pypdf raises many kinds of errors for damaged files
        raise UnreadableFileError(
            f"{file} can't be read as a PDF ({error})", advice="repair it, or save it anew"
        ) from error
    return title.strip(), dict(enumerate(join_divided_words(texts), start=1))


def _import(module: str) -> Any:
    return import_library(module, "files", "reading files")


#: Reader by file suffix; other files are read as text.
_READERS = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
