"""Convert HTML to Markdown: every block on its own, and only what a reader sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bge_integrations.documents.encodings import decode
from bge_integrations.optional import import_library

#: Elements that are not content, and are left out.
_NOT_CONTENT = frozenset(
    ["annotation", "annotation-xml", "audio", "canvas", "datalist", "script", "style", "svg", "template", "video"]
)
#: Shown only without scripts. The parser would take it for text if the page begins with it.
_NO_SCRIPT = re.compile(r"<noscript\b.*?(?:</noscript\s*>|\Z)", re.IGNORECASE | re.DOTALL)
#: Elements that are not content either, but that separate what is beside them.
_SEPARATING = frozenset(["iframe", "input", "nav"])
#: Links that pages of documentation add to headings.
_HEADINGS = frozenset(["h1", "h2", "h3", "h4", "h5", "h6"])
_ANCHORS = frozenset(["", "#", "¶", "§", "🔗", "\uf0c1"])
#: The pronunciation above Chinese and Japanese characters.
_RUBY_TEXT = frozenset(["rp", "rt", "rtc"])
#: Block elements that the converter takes for inline elements. They become `div`.
_BLOCKS = frozenset((
    "address", "aside", "button", "center", "details", "dialog", "dir", "fieldset", "figure", "footer", "form",
    "header", "hgroup", "iframe", "input", "legend", "listing", "main", "marquee", "menu", "meter", "nav", "optgroup",
    "option", "output", "plaintext", "progress", "search", "select", "summary", "textarea", "xmp",
))  # fmt: skip
_LISTS = frozenset(["dir", "menu"])
#: Block elements that the converter knows.
_KNOWN_BLOCKS = frozenset((
    "article", "blockquote", "dd", "div", "dl", "dt", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li",
    "ol", "p", "pre", "section", "table", "ul",
))  # fmt: skip
#: Inline elements whose conversion removes the breaks around a block inside them.
_INLINE = frozenset(["b", "code", "del", "em", "i", "kbd", "q", "s", "samp", "strong", "sub", "sup"])
_SOFT_HYPHEN = "\xad"
_INVISIBLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)


def read_html(data: bytes, file: Path) -> tuple[str, str]:
    """Return the title of an HTML page and its content as Markdown. `file` is named in messages.

    Raises:
        UnreadableFileError: The page is not text, or in an unknown encoding.
        RecursionError: The page is nested too deeply.
    """
    libraries = {name: import_library(name, "files", "reading HTML") for name in ("bs4", "bs4.dammit", "markdownify")}
    import_library("html5lib", "files", "reading HTML")  # parses as browsers do, and brings webencodings
    markup = _NO_SCRIPT.sub("", decode(data, file, _declared_encoding(data, libraries["bs4.dammit"]))).replace(
        _SOFT_HYPHEN, ""
    )
    soup = libraries["bs4"].BeautifulSoup(markup, "html5lib")
    _remove(_named(soup, _NOT_CONTENT))
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    _keep_visible(soup)
    _separate_blocks(soup)
    converter = libraries["markdownify"].MarkdownConverter(
        heading_style="ATX", strip=["a", "img"], escape_asterisks=False, escape_underscores=False, escape_misc=False
    )
    text = str(converter.convert_soup(soup.body or soup)).strip()
    return title.replace(_SOFT_HYPHEN, ""), text.replace(_SOFT_HYPHEN, "")


def _declared_encoding(data: bytes, dammit: Any) -> str:
    """Return the encoding that a page declares, as browsers understand its name."""
    declared = dammit.EncodingDetector.find_declared_encoding(data, is_html=True)
    found = import_library("webencodings", "files", "reading HTML").lookup(declared or "")
    if found is None or found.name.startswith("utf-16"):  # it could not be read from such bytes
        return ""
    return str(found.codec_info.name)


def _named(soup: Any, names: frozenset[str]) -> list[Any]:
    """Return the elements with these names, many times faster than the parser's own search."""
    return [node for node in soup.descendants if node.name in names]


def _remove(elements: list[Any]) -> None:
    for element in elements:
        if not element.decomposed:
            element.decompose()


def _keep_visible(soup: Any) -> None:
    _remove([node for node in soup.descendants if node.name and _is_hidden(node)])
    _remove(_named(soup, _RUBY_TEXT))
    for heading in _named(soup, _HEADINGS):
        _remove([link for link in heading("a") if link.get_text(strip=True) in _ANCHORS])
    for element in _named(soup, _SEPARATING):
        element.clear()


def _is_hidden(element: Any) -> bool:
    hidden = element.get("hidden")
    return (hidden is not None and hidden.lower() != "until-found") or bool(_INVISIBLE.search(element.get("style", "")))


def _separate_blocks(soup: Any) -> None:
    for element in _named(soup, _LISTS):
        element.name = "ul"
    for element in _named(soup, _BLOCKS):
        element.name = "div"
    for table in _named(soup, frozenset(["table"])):
        _make_regular(table)
    for element in _named(soup, frozenset(["li"])):
        if element.parent.name not in ("ol", "ul"):
            element.name = "div"
    for element in _named(soup, _INLINE):
        if any(node.name in _KNOWN_BLOCKS for node in element.descendants):
            element.unwrap()
    for element in _named(soup, frozenset(["div"])):
        if next(element.stripped_strings, None) is None and _is_inline(element.previous_sibling):
            element.insert_after(soup.new_tag("br"))


def _make_regular(table: Any) -> None:
    """Make one body of a table's bodies and its foot, and blocks of a table for layout: one with tables inside."""
    sections = table(["thead", "tbody", "tfoot"], recursive=False)
    if table.find("table"):
        rows = [row for section in sections for row in section("tr", recursive=False)]
        cells = [cell for row in rows for cell in row(["td", "th"], recursive=False)]
        for element in [table, *sections, *rows, *cells]:
            element.name = "div"
        return
    bodies = sorted((section for section in sections if section.name != "thead"), key=lambda section: str(section.name))
    for other in bodies[1:]:
        bodies[0].extend(list(other.contents))
        other.decompose()


def _is_inline(node: Any) -> bool:
    return node is not None and node.name not in (*_KNOWN_BLOCKS, "br")
