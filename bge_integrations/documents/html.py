"""Convert HTML to Markdown: every block on its own, and only what a reader sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bge_integrations.documents.encodings import decode
from bge_integrations.optional import import_library

#: Elements that are not content, and are left out.
_NOT_CONTENT = ("datalist", "noscript", "script", "style", "svg", "template")
#: The pronunciation above Chinese and Japanese characters.
_RUBY_TEXT = ("rp", "rt", "rtc")
#: Block elements that the converter takes for inline elements. They become `div`.
_BLOCKS = (
    "address", "aside", "button", "center", "details", "dialog", "dir", "fieldset", "figure", "footer", "form",
    "header", "hgroup", "iframe", "legend", "listing", "main", "menu", "nav", "optgroup", "option",
    "plaintext", "search", "select", "summary", "textarea", "xmp",
)  # fmt: skip
_LISTS = ("dir", "menu")
#: Block elements that the converter knows.
_KNOWN_BLOCKS = (
    "article", "blockquote", "dd", "div", "dl", "dt", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li",
    "ol", "p", "pre", "section", "table", "ul",
)  # fmt: skip
#: Inline elements whose conversion removes the breaks around a block inside them.
_INLINE = ("b", "code", "del", "em", "i", "kbd", "q", "s", "samp", "strong", "sub", "sup")
_INVISIBLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)


def read_html(data: bytes, file: Path) -> tuple[str, str]:
    """Return the title of an HTML page and its content as Markdown. `file` is named in messages.

    Raises:
        UnreadableFileError: The page is not text, or in an unknown encoding.
        RecursionError: The page is nested too deeply.
    """
    libraries = {name: import_library(name, "files", "reading HTML") for name in ("bs4", "bs4.dammit", "markdownify")}
    import_library("html5lib", "files", "reading HTML")  # parses as browsers do
    soup = libraries["bs4"].BeautifulSoup(_decoded(data, file, libraries["bs4.dammit"]), "html5lib")
    for element in soup(_NOT_CONTENT):
        element.decompose()
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    _keep_visible(soup)
    _separate_blocks(soup)
    converter = libraries["markdownify"].MarkdownConverter(
        heading_style="ATX", strip=["a", "img"], escape_asterisks=False, escape_underscores=False, escape_misc=False
    )
    return title, converter.convert_soup(soup.body or soup).strip()


def _decoded(data: bytes, file: Path, dammit: Any) -> str:
    """Decode a page with the encoding that it declares, or else as other files are decoded."""
    declared = dammit.EncodingDetector.find_declared_encoding(data, is_html=True)
    if declared and not declared.lower().startswith(("utf-16", "utf-32")):  # it could not be read from such bytes
        decoded = dammit.UnicodeDammit(data, is_html=True)
        if decoded.unicode_markup and decoded.original_encoding == decoded.declared_html_encoding:
            return str(decoded.unicode_markup)
    return decode(data, file)


def _keep_visible(soup: Any) -> None:
    for element in soup(_is_hidden):
        if not element.decomposed:
            element.decompose()
    for element in soup(_RUBY_TEXT):
        if not element.decomposed:
            element.decompose()
    for element in soup("nav"):
        element.clear()  # not content, but it separates what is beside it


def _is_hidden(element: Any) -> bool:
    hidden = element.get("hidden")
    return (hidden is not None and hidden.lower() != "until-found") or bool(_INVISIBLE.search(element.get("style", "")))


def _separate_blocks(soup: Any) -> None:
    for element in soup(_LISTS):
        element.name = "ul"
    for element in soup(_BLOCKS):
        element.name = "div"
    for element in soup("li"):
        if element.parent.name not in ("ol", "ul"):
            element.name = "div"
    for element in soup(_INLINE):
        if element.find(_KNOWN_BLOCKS):
            element.unwrap()
    for element in soup("div"):
        if next(element.stripped_strings, None) is None and _is_inline(element.previous_sibling):
            element.insert_after(soup.new_tag("br"))


def _is_inline(node: Any) -> bool:
    return node is not None and node.name not in (*_KNOWN_BLOCKS, "br")
