"""Read Word documents and PowerPoint presentations as Markdown: headings, lists and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bge_integrations.documents.archives import check_archive
from bge_integrations.documents.content import Content, Part, reading_as
from bge_integrations.documents.tables import markdown_table
from bge_integrations.optional import import_library

#: Text boxes, which are separate texts; tab stops; what was moved away or is hidden; pronunciation above characters.
_NOT_TEXT = (
    "ancestor::w:txbxContent or ancestor::w:tabs or ancestor::w:moveFrom or ancestor::w:rt"
    " or ancestor::w:r/w:rPr/w:vanish[not(@w:val='0' or @w:val='false')]"
)
_EQUATION = "*[local-name()='t' and ancestor::*[local-name()='oMath']]"
#: Elements that are text, by their names.
_MARKS = {"noBreakHyphen": "-", "tab": " ", "br": " ", "cr": " "}
#: Elements around blocks.
_AROUND_BLOCKS = ("}sdt", "}sdtContent", "}ins", "}moveTo", "}customXml", "}smartTag")
_HEADING = re.compile(r"heading ([1-6])", re.IGNORECASE)


def read_docx(file: Path) -> Content:
    """Read a Word document: its paragraphs and tables, without headers, footers, notes and text boxes."""
    library = import_library("docx", "files", "reading .docx files")
    with reading_as("a Word document", file):
        check_archive(file, "a Word document")
        document = library.Document(str(file))
        blocks: list[tuple[str, str]] = []  # style and Markdown
        for block in _blocks(library, document, document.element.body):
            style, text = (
                _paragraph(block)
                if hasattr(block, "runs")
                else (
                    "table",
                    markdown_table(_word_table(library, block)),
                )
            )
            if text:
                blocks.append((style, text))
        title = document.core_properties.title.strip()
    titles = [text.lstrip("# ") for style, text in blocks if style == "Title"]
    headings = [text.lstrip("# ") for _, text in blocks if text.startswith("# ")]
    text = "\n\n".join(text for _, text in blocks)
    return Content([Part(text)], next(iter([*titles, *filter(None, [title]), *headings]), ""), layout="markdown")


def read_pptx(file: Path) -> Content:
    """Read the slides of a PowerPoint presentation: texts, tables and notes."""
    library = import_library("pptx", "files", "reading .pptx files")
    with reading_as("a PowerPoint presentation", file):
        check_archive(file, "a PowerPoint presentation")
        presentation = library.Presentation(str(file))
        parts = [
            Part("\n\n".join(text for text in _slide(slide) if text), number)
            for number, slide in enumerate(presentation.slides, start=1)
        ]
        title = presentation.core_properties.title.strip()
    return Content(parts, title, layout="markdown")


def _blocks(library: Any, document: Any, element: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables in an element, also in content controls."""
    for child in element.iterchildren():
        if child.tag.endswith("}p"):
            yield library.text.paragraph.Paragraph(child, document)
        elif child.tag.endswith("}tbl"):
            yield library.table.Table(child, document)
        elif child.tag.endswith(_AROUND_BLOCKS):
            yield from _blocks(library, document, child)


def _text(paragraph: Any) -> str:
    """Return the text of a paragraph, also in content controls, insertions and equations, without text boxes."""
    names = " | ".join(f".//w:{name}" for name in ("t", *_MARKS))
    parts = paragraph._p.xpath(f"({names} | .//{_EQUATION})[not({_NOT_TEXT})]")
    return "".join(_MARKS.get(part.tag.rpartition("}")[2], part.text or "") for part in parts).strip()


def _paragraph(paragraph: Any) -> tuple[str, str]:
    """Return the style of a paragraph and its text as Markdown."""
    style = paragraph.style.name or ""
    text = _text(paragraph)
    if not text:
        return style, ""
    heading = _HEADING.match(style) or _HEADING.match(getattr(paragraph.style.base_style, "name", None) or "")
    if heading or style == "Title":
        level = int(heading[1]) if heading else 1
        return style, "#" * level + " " + " ".join(text.split())
    return style, f"- {text}" if style.startswith("List") else text


def _word_table(library: Any, table: Any) -> list[list[str]]:
    return [_cells(row.cells, lambda cell: _cell_text(library, cell)) for row in table.rows]


def _cell_text(library: Any, cell: Any) -> str:
    """Return the text of a cell of a Word table. The rows of a table inside it become lines."""
    texts: list[str] = []
    for block in _blocks(library, cell, cell._tc):
        if hasattr(block, "runs"):
            texts.append(_text(block))
        else:
            texts += ("; ".join(filter(None, row)) for row in _word_table(library, block))
    return "\n".join(texts)


def _table(table: Any) -> str:
    return markdown_table([_cells(row.cells, lambda cell: str(cell.text)) for row in table.rows])


def _cells(cells: Iterable[Any], text_of: Callable[[Any], str]) -> list[str]:
    """Return the texts of a row's cells. A merged cell appears once for each cell that it covers, and counts once."""
    texts: list[str] = []
    before = None
    for cell in cells:
        texts.append("" if cell._tc is before else text_of(cell).strip())
        before = cell._tc
    return texts


def _slide(slide: Any) -> Iterator[str]:
    title = slide.shapes.title
    heading = " ".join(title.text_frame.text.split()) if title is not None else ""
    if heading:
        yield f"# {heading}"
    for shape in _flattened(slide.shapes):
        if shape.has_text_frame and (title is None or shape.shape_id != title.shape_id):
            paragraphs = (" ".join(paragraph.text.split()) for paragraph in shape.text_frame.paragraphs)
            yield "\n".join(text for text in paragraphs if text)
        elif getattr(shape, "has_table", False):
            yield _table(shape.table)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
        yield notes.text.strip()


def _flattened(shapes: Iterable[Any]) -> Iterator[Any]:
    """Yield shapes, and those in groups."""
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _flattened(shape.shapes)
        else:
            yield shape
