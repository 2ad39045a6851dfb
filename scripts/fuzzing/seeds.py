"""Small valid files of each format, from which damaged ones are made."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import Any

import docx
import openpyxl  # type: ignore[import-untyped]
import pptx
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image
from pypdf import PdfReader, PdfWriter

TEXTS = ("Pandas eat bamboo.", "Der Reiher frißt Fische.", "熊猫吃竹子。")
#: A page with most elements that the reader of HTML treats in its own way.
HTML = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>Pandas</title><style>p {}</style></head><body>
<noscript>none</noscript><nav><a href="http://127.0.0.1:9/">home</a></nav><h1>Pandas<a href="#p">#</a></h1>
<p>They <b>eat <i>bamboo</i></b> &amp; &eacute;. <ruby>熊<rt>xiong</rt></ruby></p>
<ul><li>one<ol><li>two</li></ol></li></ul>
<table><thead><tr><th>a</th></tr></thead><tr><td colspan="2">1</td></tr><tfoot><tr><td>2</td></tr></tfoot></table>
<div style="display:none">hidden</div>
<pre><code>x = 1</code></pre><img src="file:///etc/passwd"><iframe src="x"></iframe>
</body></html>""".encode()
MARKDOWN = b"""---
title: Pandas
tags: [a, b]
date: 2024-01-01
---
# Pandas

They *eat* bamboo, [as said](http://127.0.0.1:9/). ![](data:image/png;base64,iVBORw0KGgo=)

- one
  - two

| a | b |
| - | - |
| 1 | 2 |

```python
x = 1
```

> A quotation

1. Setext
===
"""


def word_document() -> bytes:
    made = docx.Document()
    made.add_heading("Pandas", 1)
    made.add_paragraph("They eat bamboo.")
    made.add_paragraph("one", style="List Bullet")
    made.add_table(2, 2).cell(0, 0).text = "a"
    return _saved(made)


def presentation() -> bytes:
    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "Pandas"
    slide.placeholders[1].text = "They eat bamboo."
    slide.notes_slide.notes_text_frame.text = "A note"
    return _saved(made)


def workbook() -> bytes:
    made = openpyxl.Workbook()
    assert made.active is not None
    for row in (("animal", "food", "kg"), ("panda", "bamboo", 12.5), ("heron", "fish", None)):
        made.active.append(row)
    return _saved(made)


def book() -> bytes:
    container = '<container xmlns="c"><rootfiles><rootfile full-path="b/book.opf"/></rootfiles></container>'
    package = (
        '<package xmlns="o" xmlns:dc="d"><metadata><dc:title>Pandas</dc:title></metadata><manifest>'
        '<item id="1" href="one.xhtml"/></manifest><spine><itemref idref="1"/></spine></package>'
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("b/book.opf", package)
        archive.writestr("b/one.xhtml", HTML)
    return packed.getvalue()


def pdf() -> bytes:
    """Return a PDF of one page, with a compressed stream of text, a font, and a title."""
    stream = b"BT /F1 12 Tf 72 720 Td (Pandas eat bam-) Tj 0 -14 Td (boo in China.) Tj ET"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 612 792]"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    made = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    made += b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(made),
    )
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(made)))
    writer.pages[0].compress_content_streams()
    writer.add_metadata({"/Title": "Pandas"})
    return _written(writer)


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(file, kind)
    return file.getvalue()


def json_lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def table() -> pa.Table:
    return pa.table({"text": list(TEXTS), "n": [1, 2, 3], "list": [[1.0], [], [2.0, 3.0]]})


def pairs() -> pa.Table:
    return pa.table({"query": ["What do pandas eat?"] * 3, "passage": list(TEXTS), "label": [1, 0, 0]})


def parquet(rows: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, row_group_size=2)
    return file.getvalue()


def arrow() -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, table().schema) as writer:
        writer.write_table(table())
    return file.getvalue()


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _saved(document: Any) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def _written(writer: PdfWriter) -> bytes:
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()
