"""Files are split into passages that the model reads without truncation."""

import os
from itertools import pairwise

import pytest

from bge_integrations.documents import find_files, read_file, read_passages
from bge_integrations.errors import InvalidInputError, UnreadableFileError

SENTENCES = [f"Panda number {i} eats {i * 3} kilograms of bamboo and sleeps in tree {i % 7}." for i in range(300)]


def pdf(*pages: str, title: str = "", letters: bytes = b"") -> bytes:
    """Return a PDF with one line of text per page; `letters` maps its bytes to characters."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>"
        % (b" ".join(b"%d 0 R" % (5 + 2 * i) for i in range(len(pages))), len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode %d 0 R >>" % (5 + 2 * len(pages)),
        b"<< /Title (%s) >>" % title.encode(),
    ]
    for i, page in enumerate(pages):
        stream = b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % page.encode()
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (6 + 2 * i),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        ]
    table = b"/CIDInit /ProcSet findresource begin begincmap %sendcmap" % letters
    objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(table), table))
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return out + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R /Info 4 0 R >>\nstartxref\n%d\n%%%%EOF"
        % (size, table, size, len(out))
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text(" ".join(SENTENCES), "utf-8")
    (tmp_path / "sub" / "b.md").write_text(
        "Intro.\n\n# Bears\n\nBears eat honey.\n\n## Size\n\nThey are large.\n", "utf-8"
    )
    (tmp_path / "c.html").write_text(
        "<html><head><title>The Tiber</title><style>p {color: red}</style></head><body><nav>Home</nav>"
        "<h1>Rome</h1><p>Rome lies on the <a href='x'>Tiber</a>.</p><script>track()</script></body></html>",
        "utf-8",
    )
    (tmp_path / "d.pdf").write_bytes(pdf("Herons eat fish.", "Owls hunt at night.", title="Birds"))
    (tmp_path / "e.doc").write_bytes(b"not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    return tmp_path


def test_all_kinds_are_read(folder, pocket):
    passages = list(read_passages(folder, pocket))
    by_source = {p.source: p for p in passages}
    assert list(by_source) == ["a.txt", "c.html", "d.pdf", "sub/b.md"]
    assert (by_source["sub/b.md"].title, by_source["a.txt"].title) == ("Bears", "a")
    html = by_source["c.html"]
    assert (html.title, html.text) == ("The Tiber", "# Rome\n\nRome lies on the Tiber.")
    assert (html.section, by_source["sub/b.md"].section) == ("Rome", "")
    assert [(p.id, p.text, p.title, p.metadata) for p in passages if p.source == "d.pdf"] == [
        ("d.pdf#p1-0", "Herons eat fish.", "Birds", {"source": "d.pdf", "title": "Birds", "start": 0, "page": 1}),
        ("d.pdf#p2-0", "Owls hunt at night.", "Birds", {"source": "d.pdf", "title": "Birds", "start": 0, "page": 2}),
    ]
    assert len({p.id for p in passages}) == len(passages)


@pytest.mark.parametrize(("longest", "overlap"), [(None, None), (256, 32), (64, 0), (64, 7), (64, 30), (20, 0)])
def test_passages_fit_overlap_and_omit_nothing(folder, pocket, longest, overlap):
    text = (folder / "a.txt").read_text()
    passages = list(read_passages(folder / "a.txt", pocket, passage_tokens=longest, overlap_tokens=overlap))
    assert len(passages) > 5
    assert max(pocket.count_tokens([p.text for p in passages], kind="passage")) <= (longest or 256)
    assert all(text[p.start :].startswith(p.text) for p in passages)
    covered = [(p.start, p.start + len(p.text)) for p in passages]
    assert covered[0][0] == 0
    assert covered[-1][1] == len(text)
    gaps = [following[0] - before[1] for before, following in pairwise(covered)]
    assert max(gaps) <= 1  # one space
    assert (min(gaps) < 0) == (overlap != 0)
    if overlap:
        repeated = [text[b[0] : a[1]] for a, b in pairwise(covered)]
        assert max(n - 2 for n in pocket.count_tokens(repeated)) <= overlap


def test_a_model_with_an_instruction_and_a_short_length(folder):
    from bge_integrations import load_embedder

    with load_embedder("pocket", passage_instruction="Represent this passage: ", max_length=40) as embedder:
        passages = list(read_passages(folder / "a.txt", embedder))
        assert 30 < max(embedder.count_tokens([p.text for p in passages], kind="passage")) <= 40
        with pytest.raises(InvalidInputError, match="passage_tokens=5"):
            read_passages(folder, embedder, passage_tokens=5)
        with pytest.raises(InvalidInputError, match="passage_tokens=41"):
            read_passages(folder, embedder, passage_tokens=41)
        with pytest.raises(InvalidInputError, match="overlap_tokens=40"):
            read_passages(folder, embedder, overlap_tokens=40)
        with pytest.raises(InvalidInputError, match="min_tokens=41"):
            read_passages(folder, embedder, min_tokens=41)


def test_tokens_are_counted_as_they_are_encoded(pocket):
    texts = ["", "Pandas eat bamboo.", " ".join(SENTENCES)]
    counted = pocket.count_tokens(texts)
    assert counted[0] == 2
    assert counted[2] > pocket.max_length
    with_vectors = pocket.encode(texts, multi_vector=True, on_truncate="ignore").multi_vector
    assert [1 + len(with_vectors[i]) for i in range(2)] == counted[:2]  # <s> has no vector
    assert pocket.count_tokens([]) == []
    with pytest.raises(InvalidInputError, match=r"texts.*\bstr\b"):
        pocket.count_tokens("one text")
    with pytest.raises(InvalidInputError, match="kind='document'"):
        pocket.count_tokens(["a"], kind="document")


BAD = {
    "binary.txt": (bytes(range(256)) * 4, "is not text"),
    "empty.md": (b" \n", "has no text"),
    "script.html": (b"<script>x()</script>", "has no text"),
    "cut.pdf": (pdf("Herons eat fish.")[:150], "can't be read as a PDF"),
    "text.pdf": (b"this is no PDF", "can't be read as a PDF"),
    "scanned.pdf": (pdf(""), "OCR"),
    "deep.html": (b"<div>" * 2000 + b"Owls hunt at night.", "nested too deeply"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_file_is_named_and_can_be_skipped(tmp_path, pocket, name):
    content, why = BAD[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("Pandas eat bamboo.")
    with pytest.raises(UnreadableFileError, match=why) as caught:
        list(read_passages(tmp_path, pocket))
    assert name in str(caught.value)
    left_out: list[UnreadableFileError] = []
    assert [p.source for p in read_passages(tmp_path, pocket, on_unreadable=left_out.append)] == ["good.txt"]
    assert len(left_out) == 1


def test_a_pdf_with_half_a_surrogate_pair(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf("Owls x hunt", letters=b"1 beginbfchar <78> <D83D> endbfchar "))
    assert read_file(tmp_path / "a.pdf")[1] == {1: "Owls \ufffd hunt"}


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    """The refusal is simulated, because root can read everything."""
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InvalidInputError, match=r"sub.*Permission denied"):
        find_files(folder)
    (folder / ".sub").mkdir()
    (folder / "sub" / "b.md").unlink()
    (folder / "sub").rmdir()
    assert len(find_files(folder)) == 3


def test_a_page_in_another_encoding(tmp_path):
    (tmp_path / "old.html").write_bytes('<meta charset="iso-8859-1"><p>caf\u00e9</p>'.encode("latin-1"))
    assert read_file(tmp_path / "old.html")[1] == {None: "caf\u00e9"}


def test_nothing_to_read(tmp_path, pocket):
    (tmp_path / "a.zip").write_bytes(b"PK")
    mistakes = {
        tmp_path: "contains no supported files",
        tmp_path / "x": "does not exist",
        tmp_path / "a.zip": "convert it",
    }
    for path, why in mistakes.items():
        with pytest.raises(InvalidInputError, match=why):
            read_passages(path, pocket)
    with pytest.raises(InvalidInputError):
        find_files(tmp_path)
