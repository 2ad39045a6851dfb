"""Embedded pictures and fonts are left out of Markdown, and passages that are not text are reported."""

import base64
import logging
import random

import pytest

from bge_integrations.documents import read_file, read_passages

DATA = base64.b64encode(random.Random(0).randbytes(75_000)).decode()
WRAPPED = "\n".join(DATA[i : i + 76] for i in range(0, len(DATA), 76))
SVG = "<svg xmlns='http://www.w3.org/2000/svg'><path d='M0(1)'/></svg>"


@pytest.mark.parametrize(
    ("markdown", "read"),
    [
        (f"A ![logo](data:image/png;base64,{DATA}) B", "A ![logo]() B"),
        (f'A ![logo](data:image/png;base64,{DATA} "Our logo") B', 'A ![logo]( "Our logo") B'),
        (f"A ![logo](<DATA:image/png;base64,{DATA}>) B", "A ![logo](<>) B"),
        (f"A ![logo](data:image/png;base64,\n{WRAPPED}) B", "A ![logo]() B"),
        (f"A [font](data:font/woff2;charset=utf-8;base64,{DATA}) B", "A [font]() B"),
        (f"[![logo](data:;base64,{DATA})](https://example.org) B", "[![logo]()](https://example.org) B"),
        ("| ![a](data:image/gif;base64,R0lGODlhAQABAAAAACw=) | B |", "| ![a]() | B |"),
        (f"See ![logo][l].\n\n[l]: data:image/png;base64,{DATA}\nB", "See ![logo][l].\n\nB"),
        (f"[l]: <data:image/png;base64,{DATA}> 'Our logo'\nB", "B"),
        (f'[l]:\n  data:image/png;base64,{DATA}\n  "Our logo"\nB', "B"),
        (f'<img src="data:image/png;base64,{DATA}" alt="logo">', '<img src="" alt="logo">'),
        (f"<img src='data:image/png;base64,{WRAPPED}' alt='logo'>", "<img src='' alt='logo'>"),
        (f'<img src="data:image/svg+xml;utf8,{SVG}" alt="logo">', '<img src="" alt="logo">'),
        ("a { background: url(data:image/svg+xml,%3Csvg%20a(1)%3E) }", "a { background: url() }"),
        (f"```\ndata:image/png;base64,{DATA}\n```\nB", "```\n\n```\nB"),
    ],
)
def test_data_uris_are_left_out(tmp_path, markdown, read):
    (tmp_path / "a.md").write_text(f"# Title\n\n{markdown}\n", "utf-8")
    assert read_file(tmp_path / "a.md") == ("Title", {None: f"# Title\n\n{read}\n"})


@pytest.mark.parametrize(
    "markdown",
    [
        "The data: URI scheme is old. `data:image/png;base64,...` is an example.",
        "data:[<mediatype>][;base64],<data>",
        "Metadata:x/y,z and (data: a, b) and \"data: a, b\".",
        "![logo](images/data:1.png) and [data](https://example.org/data:image/png,x)",
    ],
)  # fmt: skip
def test_prose_about_data_stays(tmp_path, markdown):
    (tmp_path / "a.md").write_text(markdown, "utf-8")
    assert read_file(tmp_path / "a.md")[1] == {None: markdown}


@pytest.mark.parametrize("data", [WRAPPED[:6000], DATA[:6000], DATA[:3000].encode().hex(), "ACGT" * 1500])
def test_passages_that_are_not_text_are_reported(tmp_path, pocket, caplog, data):
    (tmp_path / "a.txt").write_text(f"Pandas eat bamboo.\n\n{data}\n")
    (tmp_path / "b.txt").write_text("https://example.org/a/long/address/of/a/page/with/seventy/characters " * 50)
    with caplog.at_level(logging.WARNING, "bge_integrations"):
        passages = list(read_passages(tmp_path, pocket))
    assert "Pandas" in passages[0].text
    assert len(caplog.messages) == 1
    assert "a.txt" in caplog.messages[0]
    assert "passages are encoded data" in caplog.messages[0]
