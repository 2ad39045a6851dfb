"""Read the pages of a PDF."""

from __future__ import annotations

from pathlib import Path

from bge_integrations.documents.content import Content, Part, reading_as
from bge_integrations.documents.pdf_text import join_divided_words, normalise
from bge_integrations.errors import UnreadableFileError
from bge_integrations.optional import how_to_install, import_library


def read_pdf(file: Path) -> Content:
    """Read the pages of a PDF. A scanned page has no text."""
    library = import_library("pypdf", "files", "reading PDF files")
    with reading_as("a PDF", file):
        try:
            reader = library.PdfReader(file)
            texts = [normalise(page.extract_text()) for page in reader.pages]
            title = normalise(str((reader.metadata or {}).get("/Title") or ""))
        except library.errors.DependencyError as error:
            raise UnreadableFileError(
                f"{file} is encrypted, and reading it needs the package cryptography", advice=how_to_install("files")
            ) from error
        except library.errors.FileNotDecryptedError as error:
            raise UnreadableFileError(
                f"{file} is encrypted and needs a password", advice="save a copy without a password, and index that"
            ) from error
    parts = [Part(text, number) for number, text in enumerate(join_divided_words(texts), start=1)]
    return Content(parts, title.strip())
