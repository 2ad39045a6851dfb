"""Read the text of a file: a table of readers by suffix."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bge_integrations.documents.content import Content, Part, read_bytes, reading_as
from bge_integrations.documents.encodings import decode
from bge_integrations.documents.epub import read_epub
from bge_integrations.documents.html import read_html
from bge_integrations.documents.json_text import read_json, read_json_lines
from bge_integrations.documents.markdown import read_markdown
from bge_integrations.documents.office import read_docx, read_pptx
from bge_integrations.documents.pdf import read_pdf
from bge_integrations.documents.spreadsheets import read_csv, read_xlsx
from bge_integrations.errors import UnreadableFileError
from bge_integrations.validation import check_path

_CODE = (
    ".bash", ".c", ".cc", ".clj", ".cpp", ".cs", ".dart", ".erl", ".ex", ".exs", ".go", ".h", ".hpp", ".hs", ".java",
    ".jl", ".js", ".jsx", ".kt", ".lua", ".mjs", ".php", ".pl", ".ps1", ".py", ".pyi", ".r", ".rb", ".rs", ".scala",
    ".sh", ".sql", ".swift", ".ts", ".tsx",
)  # fmt: skip


def read_content(file: Path) -> Content:
    """Return what a file contains, without parts that have no text. Files of an unknown kind are read as text.

    Raises:
        UnreadableFileError: The file can't be read, its name is not UTF-8, or it contains no text.
        ImportError: The library that reads such files is not installed; the message says how to install it.
    """
    name = str(file)
    if (shown := name.encode("utf-8", "backslashreplace").decode()) != name:
        raise UnreadableFileError(
            f"{shown} has a name that is not UTF-8", advice="rename it, or move it out of the folder"
        )
    content = _READERS.get(file.suffix.lower(), _read_text)(file)
    parts = [part for part in content.parts if part.text.strip()]
    if not parts:
        advice = "if it is scanned, run text recognition (OCR) first" if file.suffix.lower() == ".pdf" else None
        raise UnreadableFileError(f"{file} has no text", advice=advice)
    return replace(content, parts=parts, title=content.title or file.stem)


def read_file(file: str | os.PathLike[str]) -> tuple[str, dict[int | None, str]]:
    """Return a file's title, and its text by the number of the page, slide or sheet; by None if it has none.

    HTML, Word, PowerPoint and EPUB files are converted to Markdown, and rows of spreadsheets to lines. `data:` URIs and
    front matter are left out of Markdown.

    Raises:
        UnreadableFileError: The file can't be read, its name is not UTF-8, or it contains no text.
        InvalidInputError: `file` is not a path.
        ImportError: The library that reads such files is not installed; the message says how to install it.
    """
    content = read_content(Path(check_path(file, "file")))
    texts: dict[int | None, list[str]] = {}
    for part in content.parts:
        texts.setdefault(part.page, []).append(part.text)
    return content.title, {page: "\n\n".join(parts) for page, parts in texts.items()}


def _read_text(file: Path) -> Content:
    return Content([Part(decode(read_bytes(file), file))])


def _read_code(file: Path) -> Content:
    return Content([Part(decode(read_bytes(file), file))], layout="code")


def _read_html(file: Path) -> Content:
    with reading_as("HTML", file):
        title, text = read_html(read_bytes(file), file)
    return Content([Part(text)], title, "markdown")


_READERS: dict[str, Callable[[Path], Content]] = {
    ".txt": _read_text,
    ".rst": _read_text,
    ".adoc": _read_text,
    ".org": _read_text,
    ".tex": _read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".pptx": read_pptx,
    ".xlsx": read_xlsx,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".epub": read_epub,
    **dict.fromkeys(_CODE, _read_code),
}
#: The suffixes of the files that are read in a folder.
SUFFIXES = tuple(_READERS)
#: Those that are not source code.
DOCUMENT_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in _CODE)
