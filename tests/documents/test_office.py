"""Word documents, presentations and workbooks become text with headings, tables and the names of columns."""

import datetime
import io
import zipfile
from copy import deepcopy

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls

from bge_integrations.documents import read_file, read_passages
from bge_integrations.documents.reading import read_content
from bge_integrations.errors import UnreadableFileError


def word_document(file, *, title="", text="Bears eat honey."):
    document = docx.Document()
    document.core_properties.title = title
    document.add_heading("Bears", 0)
    document.add_heading("Food", 1)
    document.add_paragraph(text)
    document.add_paragraph("Berries", style="List Bullet")
    table = document.add_table(2, 3)
    for cell, value in zip(
        [*table.rows[0].cells, *table.rows[1].cells], ["Animal", "Food", "Size", "Panda", "a|b", "1"], strict=True
    ):
        cell.text = value
    table.rows[1].cells[1].merge(table.rows[1].cells[2])
    document.add_heading("尺寸", 2)
    document.add_paragraph("大熊猫很大。")
    document.save(file)


def presentation(file):
    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "Owls"
    slide.placeholders[1].text = "Hunt at night"
    slide.notes_slide.notes_text_frame.text = "They hear well."
    slide = made.slides.add_slide(made.slide_layouts[6])
    table = slide.shapes.add_table(2, 2, 0, 0, 100, 100).table
    for i, value in enumerate(["Animal", "Food", "Panda", "bamboo"]):
        table.cell(i // 2, i % 2).text = value
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 10, 10).text_frame.text = "In a group"
    made.slides.add_slide(made.slide_layouts[6])
    made.save(file)


def workbook(file):
    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "Preise"
    for row in (["Report"], [], ["Animal", "Price", "Since"], ["Panda", 3.5, datetime.date(2020, 1, 2)], ["Owl\nbarn"]):
        sheet.append(row)
    made.create_sheet("Empty")
    made.create_sheet("数据").append(["竹子", 7])
    made.save(file)


def test_a_word_document(tmp_path, pocket):
    word_document(tmp_path / "a.docx")
    (passage,) = read_passages(tmp_path, pocket)
    assert (passage.title, passage.section) == ("Bears", "Food")
    assert passage.text == (
        "# Bears\n\n# Food\n\nBears eat honey.\n\n- Berries\n\n"
        "| Animal | Food | Size |\n| --- | --- | --- |\n| Panda | a\\|b 1 |  |\n\n## 尺寸\n\n大熊猫很大。"
    )


def test_slides_are_pages(tmp_path, pocket):
    presentation(tmp_path / "a.pptx")
    first, second = read_passages(tmp_path, pocket)
    assert (first.page, first.section, first.id) == (1, "Owls", "a.pptx#p1-0")
    assert first.text == "# Owls\n\nHunt at night\n\nThey hear well."
    assert second.text == "| Animal | Food |\n| --- | --- |\n| Panda | bamboo |\n\nIn a group"


def test_rows_carry_the_names_of_their_columns(tmp_path, pocket):
    workbook(tmp_path / "a.xlsx")
    prices, data = read_passages(tmp_path, pocket)
    assert prices.text == "Report\nAnimal: Panda; Price: 3.5; Since: 2020-01-02\nAnimal: Owl barn"
    assert (prices.page, prices.section, data.page, data.section, data.text) == (1, "Preise", 3, "数据", "竹子; 7")


def test_content_controls_and_insertions(tmp_path):
    document = docx.Document()
    document.add_paragraph("Bears ").add_run("eat honey.")
    for tag in ("sdt", "ins"):
        copied = deepcopy(document.paragraphs[0]._p)
        wrapped = OxmlElement(f"w:{tag}")
        inner = wrapped
        if tag == "sdt":
            inner = OxmlElement("w:sdtContent")
            wrapped.append(inner)
        inner.append(copied)
        document.element.body.insert(0, wrapped)
    run = document.paragraphs[0]._p.r_lst[1]
    inserted = OxmlElement("w:ins")
    run.addprevious(inserted)
    inserted.append(run)
    document.save(tmp_path / "a.docx")
    assert read_file(tmp_path / "a.docx")[1][None].split("\n\n") == ["Bears eat honey."] * 3


RUN = "<w:r><w:t>{0}</w:t></w:r>"


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        (f"<w:moveFrom>{RUN}</w:moveFrom>" + RUN.format("B"), "B"),
        (f"<w:moveTo>{RUN}</w:moveTo><w:del><w:r><w:delText>B</w:delText></w:r></w:del>", "A"),
        (
            "<w:r><w:t>A</w:t><w:noBreakHyphen/><w:t>B</w:t><w:softHyphen/><w:t>C</w:t><w:cr/><w:t>D</w:t></w:r>",
            "A-BC D",
        ),
        ("<w:r><w:rPr><w:vanish/></w:rPr><w:t>B</w:t></w:r>" + RUN, "A"),
        (f"<w:r><w:ruby><w:rt>{RUN.format('kan')}</w:rt><w:rubyBase>{RUN}</w:rubyBase></w:ruby></w:r>", "A"),
        (f"{RUN}<m:oMath><m:r><m:t>B</m:t></m:r></m:oMath>", "AB"),
    ],
)
def test_what_a_reader_of_a_paragraph_sees(tmp_path, xml, text):
    document = docx.Document()
    math = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    paragraph = parse_xml(f"<w:p {nsdecls('w')} {math}>{xml.format('A')}</w:p>")
    document.add_table(1, 1).cell(0, 0).paragraphs[0]._p.addprevious(paragraph)
    document.element.body.insert(0, deepcopy(paragraph))
    document.save(tmp_path / "a.docx")
    assert read_file(tmp_path / "a.docx")[1][None] == f"{text}\n\n| {text} |\n| --- |"


def test_tables_in_tables_and_headings_with_own_styles(tmp_path):
    document = docx.Document()
    document.styles.add_style("Own", 1).base_style = document.styles["Heading 2"]
    document.add_paragraph("Bears", style="Own")
    cell = document.add_table(1, 1).cell(0, 0)
    cell.text = "A"
    for inner, value in zip(cell.add_table(1, 2).rows[0].cells, "BC", strict=True):
        inner.text = value
    document.save(tmp_path / "a.docx")
    assert read_file(tmp_path / "a.docx")[1][None] == "## Bears\n\n| A B; C |\n| --- |"


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx", ".epub"])
@pytest.mark.parametrize("content", ["empty", "text", "cut", "other archive", "bomb", "password", "old"])
def test_hostile_files_are_named(tmp_path, suffix, content):
    file = tmp_path / f"bad{suffix}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        if content == "bomb":
            for part in range(5):
                archive.writestr(f"word/{part}.xml", bytes(60_000_000))
        archive.writestr("readme.txt", "Pandas eat bamboo." * 100)
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)
    file.write_bytes(
        {
            "empty": b"",
            "text": b"This is not an archive.",
            "cut": packed.getvalue()[:-30],
            "other archive": packed.getvalue(),
            "bomb": packed.getvalue(),
            "password": old + "EncryptedPackage".encode("utf-16-le"),
            "old": old,
        }[content]
    )
    with pytest.raises(UnreadableFileError) as caught:
        read_file(file)
    assert file.name in str(caught.value)
    wanted = {"bomb": "too large", "password": "password", "old": "Office 97"}.get(content, "can't be read")
    assert wanted in caught.value.finding


def test_one_bad_file_does_not_end_the_others(tmp_path, pocket):
    (tmp_path / "a.docx").write_bytes(b"PK")
    word_document(tmp_path / "b.docx", title="Owls")
    errors = []
    (passage,) = read_passages(tmp_path, pocket, on_unreadable=errors.append)
    assert (passage.source, len(errors)) == ("b.docx", 1)


def test_a_long_line_in_a_document(tmp_path, pocket):
    word_document(tmp_path / "a.docx", text="熊" * 30_000)
    made = openpyxl.Workbook()
    made.active.append(["a", "熊" * 30_000])
    made.save(tmp_path / "b.xlsx")
    found = list(read_passages(tmp_path, pocket, overlap_tokens=0))
    assert sum(passage.text.count("熊") for passage in found) == 60_001
    assert max(pocket.count_tokens([passage.text for passage in found], kind="passage")) <= 256


def test_a_sheet_that_claims_to_be_huge(tmp_path):
    made = openpyxl.Workbook()
    made.active["A1"] = "first"
    made.active["XFD1048576"] = "last"
    made.save(tmp_path / "a.xlsx")
    assert read_content(tmp_path / "a.xlsx").parts[0].text == "first\nlast"
