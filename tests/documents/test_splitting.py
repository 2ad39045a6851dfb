"""Passages stand for themselves: with their headings, neither too long nor too short, tables and code whole."""

import random

import pytest

from bge_integrations.documents import read_passages
from bge_integrations.documents.folder import FolderChanges, follow_folder
from bge_integrations.documents.packing import Packer
from bge_integrations.index import M3Index

TITLE = "Giant pandas of the western mountains"
BODY = " ".join(f"Panda number {i} eats {i * 3} kilograms of bamboo and sleeps in tree {i % 7}." for i in range(40))
TABLE = "| Animal | Food |\n|---|---|\n" + "\n".join(f"| Animal {i} | Food number {i} |" for i in range(30))
CODE = "```python\n# Not a heading\n\n\ndef eat(food):\n    return food * 2\n```"


def words(texts):
    """Count words instead of tokens."""
    return [len(text.split()) for text in texts]


def split(text, room, least=0, overlap=0, layout="markdown"):
    packed = list(Packer(words, room, least, overlap).split(text, layout))
    assert max(words([passage.text for passage in packed])) <= room
    return packed


def passages(folder, name, text, pocket, **sizes):
    (folder / name).write_text(text, "utf-8")
    return list(read_passages(folder / name, pocket, **sizes))


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.html"])
def test_a_title_goes_with_the_first_paragraph(tmp_path, pocket, name):
    marks = {"a.md": ("# ", ""), "a.txt": ("", ""), "a.html": ("<h1>", "</h1>")}[name]
    found = passages(tmp_path, name, f"{marks[0]}{TITLE}{marks[1]}\n\n{BODY}\n", pocket)
    assert len(found) > 2
    assert TITLE in found[0].text
    assert "Panda number 5 " in found[0].text
    tokens = pocket.count_tokens([passage.text for passage in found])
    assert min(tokens) >= 64
    assert max(tokens) <= 256


def test_no_heading_ends_a_passage():
    sections = [f"{'#' * (1 + i % 3)} Heading {i}\n\n{f'word{i}. ' * (1 + i % 9)}" for i in range(90)]
    for room in (12, 30, 70):
        found = split("\n\n".join(sections), room, least=3)
        assert not any(passage.text.splitlines()[-1].startswith("#") for passage in found)


def test_a_passage_in_the_middle_of_a_section_repeats_its_headings():
    text = f"# Bears\n\nThey like honey.\n\nFood\n----\n\n{BODY}\n\n## Size\n\nLarge."
    found = split(text, 60, least=10)
    inside = [passage for passage in found if passage.section == "Bears > Food"]
    assert len(inside) > 3
    assert all(passage.text.startswith("# Bears\n\nFood\n----\n\nPanda number") for passage in inside[1:])
    assert text[inside[1].start :].startswith("Panda number")
    assert found[-1].text.endswith("## Size\n\nLarge.")


def test_long_headings_are_not_repeated():
    text = f"# {' '.join(['long'] * 30)}\n\n## Short\n\n{BODY}"
    found = split(text, 40)
    assert all(passage.text.count("long") == 0 for passage in found[2:])
    assert all(passage.text.startswith("## Short") for passage in found[2:])


def test_short_sections_share_a_passage_and_long_ones_begin_one():
    sections = [f"# Part {i}\n\n{' '.join(f'Word{i}.' for _ in range(20))}" for i in range(6)]
    found = split("\n\n".join(sections), 50, least=10)
    assert [passage.text.count("# Part") for passage in found] == [2, 2, 2]
    found = split(f"{sections[0]}\n\n# Long\n\n{BODY}", 50, least=10)
    assert "# Long" not in found[0].text
    assert found[1].text.startswith("# Long")


@pytest.mark.parametrize("least", [5, 20, 30])
def test_a_short_tail_takes_text_from_its_neighbour(least):
    text = " ".join(f"Sentence number {i} has six words." for i in range(17)) + " The end."
    found = split(text, 60, least=least, layout="text")
    assert min(words([passage.text for passage in found])) >= least
    assert " ".join(passage.text for passage in found) == text


def test_a_table_is_kept_whole_or_its_header_is_repeated():
    text = f"# Animals\n\nThis table says what animals eat.\n\n{TABLE}\n\nThat was all."
    assert any(TABLE in passage.text for passage in split(text, 400))
    assert [TABLE in passage.text for passage in split(f"{BODY}\n\n{TABLE}", 320, least=20)][-1]
    found = split(text, 80)
    rows = [passage.text for passage in found if "| Animal 1" in passage.text or "| Animal 2" in passage.text]
    assert len(rows) > 3
    assert all("| Animal | Food |\n|---|---|\n| Animal " in row for row in rows)
    assert sum(row.count("Food number") for row in rows) == 30


def test_code_is_kept_whole_if_it_fits():
    found = split(f"{BODY}\n\n{CODE}\n\n{BODY}", 60, least=10)
    assert sum(CODE in passage.text for passage in found) == 1
    assert all(passage.section == "" for passage in found)


def test_source_code_is_divided_between_functions(tmp_path, pocket):
    functions = [f"def f{i}():\n    a = {i}\n\n    return a\n" for i in range(60)]
    found = passages(tmp_path, "a.py", "\n\n".join(functions), pocket, passage_tokens=64)
    assert len(found) > 5
    assert all(passage.text.startswith("def f") and passage.text.endswith("return a") for passage in found)


@pytest.mark.parametrize("layout", ["text", "markdown", "code", "rows"])
@pytest.mark.parametrize(("room", "least", "overlap"), [(7, 0, 0), (20, 10, 5), (50, 50, 0), (200, 20, 30)])
def test_nothing_is_lost(layout, room, least, overlap):
    items = "- one\n- two\n  - three\n\n[ref]: http://a.b\n\n> Quote\n\n1. x"
    text = f"Intro.\n\n# Bears\n\n{BODY}\n\n{TABLE}\n\n{CODE}\n\n{items}"
    found = split(text, room, least, overlap, layout)
    read = 0
    for passage in found:
        own = next(own for i in range(len(passage.text)) if text.startswith(own := passage.text[i:], passage.start))
        assert not text[read : passage.start].strip()
        read = max(read, passage.start + len(own))
    assert not text[read:].strip()
    assert len({passage.start for passage in found}) == len(found)


def test_sentences_end_where_they_do_and_lines_do_not_matter():
    text = "\n".join(["The patient was seen by Dr. Smith and approx. 20 others", "who were here. He left early. "] * 30)
    found = split(text, 30, layout="text")
    assert {passage.text.split()[-1] for passage in found} <= {"here.", "early."}


@pytest.mark.parametrize("kind", ["Chinese", "letters", "lines", "headings", "rows"])
@pytest.mark.parametrize("layout", ["text", "markdown", "code", "rows"])
def test_the_work_is_linear(kind, layout):
    pick = random.Random(0)
    long = {
        "Chinese": lambda n: "".join(chr(pick.randint(0x4E00, 0x9F00)) for _ in range(n)),
        "letters": lambda n: "".join(chr(pick.randint(97, 122)) for _ in range(n)),
        "lines": lambda n: "a b.\n" * (n // 5),
        "headings": lambda n: "# a\n\nb.\n\n" * (n // 9),
        "rows": lambda n: "|a|b|\n|-|-|\n" + "|c|d|\n" * (n // 6),
    }[kind]
    counted = 0

    def count(texts):
        nonlocal counted
        counted += sum(map(len, texts))
        return [len(text) for text in texts]

    work = []
    for length in (8_000, 32_000):
        counted = 0
        assert list(Packer(count, 500, 100, 50).split(long(length), layout))
        work.append(counted)
    assert work[1] < 6 * work[0]


def test_an_index_of_an_earlier_version_sees_changed_passages(tmp_path, pocket):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text(f"{TITLE}\n\n{BODY}")
    with M3Index.open(tmp_path / "index", pocket) as index:
        index.add(
            [TITLE, "gone"], ["a.txt#0", "a.txt#9"], [{"source": "a.txt", "title": "a", "start": n} for n in (0, 9)]
        )
        changes = follow_folder(index, folder)
        assert (changes.unchanged, changes.removed) == (0, 1)
        assert changes.added == changes.passages > 1
        small = follow_folder(index, folder, passage_tokens=100, min_tokens=10)
        assert small.passages > changes.passages
        again = follow_folder(index, folder, passage_tokens=100, min_tokens=10)
        assert again == FolderChanges(1, small.passages, added=0, unchanged=small.passages, removed=0)
