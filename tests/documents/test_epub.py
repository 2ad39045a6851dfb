"""Electronic books are read page by page, in the order of the book."""

import zipfile

import pytest

from bge_integrations.documents import read_passages
from bge_integrations.documents.reading import read_content
from bge_integrations.errors import UnreadableFileError

CONTAINER = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>\
<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
BOOK = '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><metadata \
xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>熊 and bears</dc:title></metadata><manifest>\
<item id="b" href="text/b%20b.xhtml" media-type="application/xhtml+xml"/>\
<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="css" href="x.css"/></manifest>\
<spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
PAGE = (
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body><h1>{0}</h1><p>{1}</p></body></html>'
)
ENCRYPTION = '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData><enc:CipherData>\
<enc:CipherReference URI="OPS/{0}"/></enc:CipherData></enc:EncryptedData></encryption>'


def book(file, **changes):
    entries = {
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": BOOK,
        "OPS/text/b b.xhtml": PAGE.format("Food", "They eat honey."),
        "OPS/a.xhtml": PAGE.format("Bears", "They are large."),
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (entries | changes).items():
            if text is not None:
                archive.writestr(name, text)


def test_a_book(tmp_path, pocket):
    book(tmp_path / "a.epub")
    (passage,) = read_passages(tmp_path, pocket)
    assert (passage.title, passage.section) == ("熊 and bears", "Bears")
    assert passage.text == "# Bears\n\nThey are large.\n\n# Food\n\nThey eat honey."


@pytest.mark.parametrize(
    "changes",
    [
        {"META-INF/container.xml": None},
        {"OPS/book.opf": "<package"},
        {"OPS/a.xhtml": None},
        {"META-INF/container.xml": CONTAINER.replace("rootfile ", "other ")},
        {"META-INF/encryption.xml": ENCRYPTION.format("a.xhtml")},
        {"OPS/a.xhtml": "<div>" * 3000 + "x"},
    ],
)
def test_bad_books_are_named(tmp_path, changes):
    book(tmp_path / "bad.epub", **changes)
    with pytest.raises(UnreadableFileError) as caught:
        read_content(tmp_path / "bad.epub")
    assert "bad.epub" in str(caught.value)


def test_encrypted_fonts_do_no_harm(tmp_path):
    book(tmp_path / "a.epub", **{"META-INF/encryption.xml": ENCRYPTION.format("font.otf")})
    assert read_content(tmp_path / "a.epub").parts
