"""Text of PDFs is mended."""

import pytest
from test_reading import pdf

from bge_integrations.documents import read_file
from bge_integrations.documents.pdf_text import join_divided_words, normalise


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\ufb01rewall, o\ufb03ce, ra\ufb04e", "firewall, office, raffle"),
        ("\ufb02at, o\ufb00, la\ufb05, \ufb06op", "flat, off, last, stop"),
        ("\u0561\u0580\ufb14", "\u0561\u0580\u0574\u0565"),  # Armenian
        ("\ufb4f\ufb2a", "\u05d0\u05dc\u05e9\u05c1"),  # Hebrew
        ("\ufe8e\ufefb \ufedb\ufe98", "\u0627\u0644\u0627 \u0643\u062a"),  # Arabic
        ("\u2f24\u2f63\uf9e4", "\u5927\u751f\u7406"),  # Chinese radicals
        ("\U0001d465 = \U0001d7d9", "x = 1"),
        ("cafe\u0301 a\u0308", "caf\u00e9 \u00e4"),
        ("\ud83d\udc3c \ud842\udfb7", "\U0001f43c \U00020bb7"),
        ("a \ud83d b \udc3c\ud83d\ud83d\udc3c", "a \ufffd b \ufffd\ufffd\U0001f43c"),
        ("a\x00b", "ab"),
        ("x\u00b2, \u00bd, \u2460, \u2122, \uff21, \u2026", "x\u00b2, \u00bd, \u2460, \u2122, \uff21, \u2026"),
    ],
)  # fmt: skip
def test_characters(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("The fire-\nwall blocks it.", "The firewall blocks it."),
        ("infor- \n mation", "information"),
        ("develop\u2010\nment, pan\u00ad\nda, soft\u00adware", "development, panda, software"),
        ("Bundes-\nregierung, d\u00e9ve-\nloppement", "Bundesregierung, d\u00e9veloppement"),
        ("инфор-\nмация, πληρο-\nφορία", "информация, πληροφορία"),
        ("online, on-\nline", "online, online"),
        ("a well-\nknown, data-\ndriven, real-\ntime test", "a well-known, data-driven, real-time test"),
        ("state-of-the-\nart e-\nmail, Anglo-\nSaxon", "state-of-the-art e-mail, Anglo-Saxon"),
        ("a red-black tree, the red-\nblack tree", "a red-black tree, the red-black tree"),
        ("pre-\nand post-war, Vor-\nund Nachteile", "pre-\nand post-war, Vor-\nund Nachteile"),
        ("- one\n- two\n2020-\n2021, a -\nb, end-\n\nNext", "- one\n- two\n2020-\n2021, a -\nb, end-\n\nNext"),
        ("state-\nment, hand-\nling, self-\nish, inde-\npendent", "statement, handling, selfish, independent"),
    ],
)  # fmt: skip
def test_words_divided_at_line_ends(text, joined):
    assert join_divided_words([text]) == [joined]


def test_other_pages_show_how_a_word_is_written():
    assert join_divided_words(["a black-\nbox", "the black-box"]) == ["a black-box", "the black-box"]
    assert join_divided_words(["a black-\nbox", "nothing"])[0] == "a blackbox"


def test_a_pdf(tmp_path):
    letters = b"4 beginbfchar <78> <FB01> <79> <D83D> <7A> <DC3C> <77> <D83D> endbfchar "
    (tmp_path / "a.pdf").write_bytes(pdf("xre yz w.", title="x", letters=letters))
    assert read_file(tmp_path / "a.pdf")[1] == {1: "fire \U0001f43c \ufffd."}
