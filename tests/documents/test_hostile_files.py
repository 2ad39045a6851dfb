"""Documents that expand to gigabytes, name files outside, or ask for something from the network."""

import io
import socket
import zipfile
import zlib

import docx
import openpyxl
import pytest

from bge_integrations.documents import read_file
from bge_integrations.errors import UnreadableFileError

#: Entities that expand to 10^9 copies of a word.
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
DOCTYPE = f'<!DOCTYPE x [<!ENTITY l0 "laugh">{LAUGHS}<!ENTITY file SYSTEM "file:///etc/passwd">]>'
#: The same in the YAML of a Markdown file.
ALIASES = "---\na1: &a1 [laugh]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(2, 10))
ALIASES += "title: *a9\n---\nPandas"
CONTAINER = '<container xmlns="c"><rootfiles><rootfile full-path="book.opf"/></rootfiles></container>'
PAGE = "<html><body><p>Pandas eat bamboo. {}</p></body></html>"
PACKAGE = (
    '<package xmlns="o"><metadata><title>{}</title></metadata><manifest><item id="1" href="{}"/></manifest>'
    '<spine><itemref idref="1"/></spine></package>'
)


def archive(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return packed.getvalue()


def changed(data, change):
    """Return an archive with its members as `change` makes them: {name: content} to {name: content}."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return archive(change({name: opened.read(name) for name in opened.namelist()}))


def saved(document):
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def word_document(body="Pandas eat bamboo."):
    made = docx.Document()
    made.add_paragraph(body)
    return saved(made)


def workbook(cell="Pandas eat bamboo."):
    made = openpyxl.Workbook()
    made.active.append([cell])
    return saved(made)


def book(package=None, page=None):
    package, page = package or PACKAGE.format("Pandas", "page.xhtml"), page or PAGE.format("")
    return archive({"META-INF/container.xml": CONTAINER, "book.opf": package, "page.xhtml": page})


def with_entities(data, member):
    """Put the entities into a member's text."""

    def change(members):
        text = members[member].decode()
        start = text.index("?>") + 2 if text.startswith("<?") else 0
        members[member] = text[:start] + DOCTYPE + text[start:].replace("bamboo", "&l9;&file;")
        return members

    return changed(data, change)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.docx", with_entities(word_document(), "word/document.xml")),
        ("a.xlsx", with_entities(workbook(), "xl/worksheets/sheet1.xml")),
        ("page.epub", book(page=DOCTYPE + PAGE.format("&l9;&file;"))),
        ("package.epub", book(package=DOCTYPE + PACKAGE.format("&l9;&file;", "page.xhtml"))),
        ("a.html", (DOCTYPE + PAGE.format("&l9;&file;")).encode()),
        ("a.md", ALIASES.encode()),
    ],
)
def test_entities_are_not_expanded(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    try:
        title, texts = read_file(tmp_path / name)
    except UnreadableFileError:
        texts, title = {}, ""
    assert sum(map(len, texts.values())) + len(title) < 20_000
    assert "root:" not in str(texts) + title


def lying_archive():
    """An archive whose list of contents says that a member of 50 MB has ten bytes."""
    packed = bytearray(archive({"word/document.xml": bytes(50_000_000)}))
    for at in (packed.index(b"PK\x03\x04") + 22, packed.index(b"PK\x01\x02") + 24):
        packed[at : at + 4] = (10).to_bytes(4, "little")
    return bytes(packed)


def pdf_with_a_bomb():
    """A PDF whose page unpacks to 200 MB."""
    packer = zlib.compressobj(9)
    stream = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    return (
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/Contents 4 0 R/MediaBox[0 0 9 9]>>endobj\n"
        b"4 0 obj<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream endobj\n"
        b"trailer<</Root 1 0 R/Size 5>>\n%%%%EOF" % (len(stream), stream)
    )


@pytest.mark.parametrize(
    ("name", "make"), [("a.docx", lying_archive), ("a.epub", lying_archive), ("a.pdf", pdf_with_a_bomb)]
)
def test_bombs_are_refused(tmp_path, name, make):
    (tmp_path / name).write_bytes(make())
    with pytest.raises(UnreadableFileError) as caught:
        read_file(tmp_path / name)
    assert name in caught.value.finding


@pytest.mark.parametrize("data", [word_document(), workbook(), book()])
def test_members_with_paths_outside_are_not_written(tmp_path, data):
    folder = tmp_path / "folder"
    folder.mkdir()
    name = "a.docx" if b"word/" in data else "a.xlsx" if b"xl/" in data else "a.epub"
    hostile = changed(data, lambda members: members | {"../outside.txt": b"x", str(tmp_path / "absolute.txt"): b"x"})
    (folder / name).write_bytes(hostile)
    assert "bamboo" in str(read_file(folder / name)[1])
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", name}


def test_a_book_whose_page_is_outside(tmp_path):
    (tmp_path / "secret.xhtml").write_text(PAGE.format("secret"))
    (tmp_path / "a.epub").write_bytes(book(package=PACKAGE.format("Pandas", "../secret.xhtml")))
    with pytest.raises(UnreadableFileError):
        read_file(tmp_path / "a.epub")


def test_nothing_in_a_document_is_fetched(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        page = (
            f'<html><head><base href="{url}"><link rel="stylesheet" href="{url}"><script src="{url}"></script></head>'
            f'<body><p>bamboo</p><img src="{url}"><iframe src="{url}"></iframe><object data="{url}"></object></body>'
            "</html>"
        )
        relation = (
            f'<Relationship Id="rId99" TargetMode="External" Target="{url}" Type="http://schemas.openxmlformats.org/'
            'officeDocument/2006/relationships/attachedTemplate"/></Relationships>'
        )

        def with_relation(member):
            return lambda members: members | {member: members[member].replace(b"</Relationships>", relation.encode())}

        entity = f'<!DOCTYPE x [<!ENTITY % dtd SYSTEM "{url}"> %dtd; <!ENTITY file SYSTEM "{url}">]>'
        documents = {
            "a.html": page.encode(),
            "a.md": f"bamboo ![]({url}) <img src='{url}'>\n\n[a]: {url}".encode(),
            "a.epub": book(page=page),
            "dtd.epub": book(page=entity + PAGE.format("&file;")),
            "a.docx": changed(word_document("bamboo"), with_relation("word/_rels/document.xml.rels")),
            "a.xlsx": changed(workbook("bamboo"), with_relation("xl/_rels/workbook.xml.rels")),
        }
        for name, data in documents.items():
            (tmp_path / name).write_bytes(data)
            assert "bamboo" in str(read_file(tmp_path / name)[1])
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
