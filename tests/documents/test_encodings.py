"""Text files in other encodings than UTF-8 are read right, and said to be."""

import logging

import pytest

from bge_integrations.documents import read_file
from bge_integrations.errors import UnreadableFileError

TEXTS = {
    "Le café est très fermé à Noël, où l'été fut déjà passé.": [
        "cp1252",
        "latin-1",
        "iso8859-15",
        "mac-roman",
        "utf-16-le",
    ],
    "Die Bären mögen süßen Honig und schlafen gern in Höhlen.": ["cp1252", "utf-16-be", "utf-32-le"],
    "café au lait": ["cp1252"],
    "Preis: 5 €": ["cp1252"],
    "It’s “fine” – don’t worry …": ["cp1252"],
    "20 °C, 30 °C, 40 °C and 50 °C": ["cp1252"],
    "El niño comió jamón.": ["cp1252", "cp850", "mac-roman"],
    "Καλημέρα κόσμε, τι κάνεις;": ["utf-16-le", "cp1253"],
    "Панды едят бамбук и живут в горах Китая.": ["cp1251", "koi8-r", "cp866", "utf-16-le"],
    "大熊猫吃竹子，生活在中国西部的山区。": ["gbk", "gb18030", "utf-16-le", "utf-16-be"],
    "大熊貓吃竹子，生活在中國西部的山區。": ["big5"],
    "パンダは竹を食べます。日本にもいます。": ["shift_jis", "euc_jp", "iso2022_jp"],
    "판다는 대나무를 먹고 산에 산다.": ["euc_kr", "cp949"],
    "Niedźwiedzie lubią miód, ślimaki i źdźbła.": ["cp1250", "iso8859-2"],
    "Τα πάντα τρώνε μπαμπού και ζουν στα βουνά.": ["cp1253"],
    "Ayılar balı çok sever, güneş doğdu.": ["cp1254"],
    "פנדות אוכלות במבוק וחיות בהרי סין": ["cp1255"],
    "الباندا تأكل الخيزران وتعيش في جبال الصين": ["cp1256"],
    "แพนด้ากินไผ่และอาศัยอยู่ในภูเขา": ["tis-620"],
}


@pytest.mark.parametrize(("text", "encoding"), [(text, name) for text, names in TEXTS.items() for name in names])
def test_the_encoding_is_found_and_said(tmp_path, caplog, text, encoding):
    (tmp_path / "a.txt").write_bytes(f"{text}\r\n".encode(encoding))
    with caplog.at_level(logging.WARNING, "bge_integrations"):
        assert read_file(tmp_path / "a.txt")[1] == {None: f"{text}\n"}
    assert len(caplog.messages) == 1
    assert "a.txt" in caplog.messages[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".md", ".csv", ".py", ".html"])
def test_nothing_is_said_of_unicode(tmp_path, caplog, encoding, suffix):
    (tmp_path / f"a{suffix}").write_bytes("Bären und 大熊猫".encode(encoding))
    with caplog.at_level(logging.WARNING, "bge_integrations"):
        assert read_file(tmp_path / f"a{suffix}")[1] == {None: "Bären und 大熊猫"}
    assert not caplog.messages


def test_a_page_that_does_not_say_its_encoding(tmp_path, caplog):
    (tmp_path / "a.html").write_bytes("<p>Панды едят бамбук и живут в горах.</p>".encode("cp1251"))
    with caplog.at_level(logging.WARNING, "bge_integrations"):
        assert read_file(tmp_path / "a.html")[1] == {None: "Панды едят бамбук и живут в горах."}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("大熊猫吃竹子。".encode()[:-1], "大熊猫吃竹子\ufffd"),
        ("Süße Bären mögen".encode() + b"\xff" + "schöne Äpfel.\r".encode(), "Süße Bären mögen\ufffdschöne Äpfel.\n"),
    ],
)
def test_broken_characters_do_not_change_the_encoding(tmp_path, caplog, data, text):
    (tmp_path / "a.txt").write_bytes(data)
    with caplog.at_level(logging.WARNING, "bge_integrations"):
        assert read_file(tmp_path / "a.txt")[1] == {None: text}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("iso-8859-1", "cp1252", "“Hi” 5 €"),
        ("gb2312", "gbk", "朱镕基"),
        ("x-sjis", "cp932", "東京①"),
        ("iso-8859-1", "utf-8", "Été à Noël"),
    ],
)
def test_a_page_that_says_its_encoding(tmp_path, caplog, declared, encoding, text):
    (tmp_path / "a.html").write_bytes(f"<meta charset={declared}><p>{text}</p>".encode(encoding))
    with caplog.at_level(logging.WARNING, "bge_integrations"):
        assert read_file(tmp_path / "a.html")[1] == {None: text}
    assert not caplog.messages


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(tmp_path, ends):
    (tmp_path / "a.txt").write_bytes(f"One.{ends}{ends}Two.".encode())
    assert read_file(tmp_path / "a.txt")[1] == {None: "One.\n\nTwo."}


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 8, b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xef\xbb\xbf\xff", b"\xff\xfea"]
)
def test_what_is_not_text_is_named(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UnreadableFileError) as caught:
        read_file(tmp_path / "a.txt")
    assert "a.txt" in str(caught.value)
