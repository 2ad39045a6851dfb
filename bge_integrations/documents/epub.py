"""Read electronic books: EPUB is an archive of XHTML pages and a file that lists them."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from bge_integrations.documents.archives import check_archive
from bge_integrations.documents.content import Content, Part, reading_as
from bge_integrations.documents.html import read_html
from bge_integrations.errors import UnreadableFileError

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"


def read_epub(file: Path) -> Content:
    """Read the pages of an electronic book in order, as one Markdown text."""
    with reading_as("an EPUB book", file):
        check_archive(file, "an EPUB book")
        with zipfile.ZipFile(file) as archive:
            package = _first(ElementTree.fromstring(archive.read(_CONTAINER)), "rootfile").attrib["full-path"]
            book = ElementTree.fromstring(archive.read(package))
            title = "".join(element.text or "" for element in _all(book, "title"))
            names = list(_pages(book, posixpath.dirname(package)))
            if encrypted := _encrypted(archive) & set(names):
                raise UnreadableFileError(
                    f"{file} is protected against copying ({min(encrypted)} is encrypted)",
                    advice="use a copy without protection",
                )
            texts = [read_html(archive.read(name), file)[1] for name in names]
    return Content([Part("\n\n".join(filter(None, texts)))], title.strip(), layout="markdown")


def _pages(book: ElementTree.Element, folder: str) -> Iterator[str]:
    """Yield the names of the pages in reading order."""
    items = {item.get("id"): item.get("href", "") for item in _all(book, "item")}
    for reference in _all(book, "itemref"):
        yield posixpath.normpath(posixpath.join(folder, unquote(items[reference.get("idref")])))


def _encrypted(archive: zipfile.ZipFile) -> set[str]:
    if _ENCRYPTION not in archive.namelist():
        return set()
    encryption = ElementTree.fromstring(archive.read(_ENCRYPTION))
    return {unquote(reference.get("URI", "")) for reference in _all(encryption, "CipherReference")}


def _all(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of this name in any namespace."""
    return element.iterfind(f".//{{*}}{name}")


def _first(element: ElementTree.Element, name: str) -> ElementTree.Element:
    return next(_all(element, name))
