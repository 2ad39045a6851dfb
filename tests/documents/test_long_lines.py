"""Texts with long lines are split in linear time, into the passages that the splitter itself makes."""

import random

import pytest
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from bge_integrations.documents import read_passages
from bge_integrations.documents.long_lines import chunk_indices

WINDOW = 4096


def text(kind, length):
    pick = random.Random(0)
    if kind == "words":
        return " ".join(f"{pick.randint(0, 10**8):x}{pick.choice(['', '', '.', ',', '?'])}" for _ in range(length // 8))
    first, last = {"Chinese": (0x4E00, 0x9F00), "Thai": (0xE01, 0xE2E), "letters": (97, 122), "kana": (0x3041, 0x3094),
                   "emoji": (0x1F600, 0x1F64F), "Khmer": (0x1780, 0x17A2)}[kind]  # fmt: skip
    return "".join(chr(pick.randint(first, last)) for _ in range(length))


class Watched:
    """A splitter that records the lengths of the texts that it gets."""

    def __init__(self, splitter):
        self.splitter = splitter
        self.lengths = []

    def chunk_indices(self, text):
        self.lengths.append(len(text))
        return self.splitter.chunk_indices(text)


@pytest.mark.parametrize("kind", ["Chinese", "Thai", "letters", "kana", "emoji", "Khmer", "words"])
@pytest.mark.parametrize("kind_of_splitter", [TextSplitter, MarkdownSplitter])
def test_passages_are_those_of_the_splitter(kind, kind_of_splitter):
    splitter = kind_of_splitter.from_callback(len, 200, 25)
    whole = text(kind, 12_000)
    assert list(chunk_indices(splitter, whole, 200)) == splitter.chunk_indices(whole)


@pytest.mark.parametrize("kind", ["Chinese", "Thai", "letters", "words"])
def test_the_splitter_never_sees_the_rest_of_a_long_line(kind):
    watched = Watched(TextSplitter.from_callback(len, 200, 25))
    whole = f"Intro.\n\n{text(kind, 100_000)}\nEnd."
    passages = list(chunk_indices(watched, whole, 200))
    assert all(whole[start:].startswith(chunk) for start, chunk in passages)
    assert passages[0] == (0, "Intro.")
    assert passages[-1] == (len(whole) - 4, "End.")
    assert max(watched.lengths) <= WINDOW
    assert sum(watched.lengths) < 2 * len(whole)


def test_text_without_long_lines_is_split_at_once():
    watched = Watched(TextSplitter.from_callback(len, 200, 25))
    whole = "\n".join([text("words", 3000)] * 20)
    assert list(chunk_indices(watched, whole, 200)) == watched.splitter.chunk_indices(whole)
    assert watched.lengths == [len(whole)]


def test_a_passage_longer_than_a_window():
    splitter = TextSplitter.from_callback(lambda chunk: len(chunk.split()), 200, 0)
    whole = f"Pandas{' ' * 20_000}eat bamboo." + "x" * 20_000
    assert [chunk for _, chunk in chunk_indices(splitter, whole, 200)] == [whole]


def test_a_file_without_spaces(tmp_path, pocket):
    whole = text("Chinese", 20_000)
    (tmp_path / "a.txt").write_text(whole, "utf-8")
    passages = list(read_passages(tmp_path, pocket, overlap_tokens=0))
    assert "".join(passage.text for passage in passages) == whole
    assert max(pocket.count_tokens([passage.text for passage in passages], kind="passage")) <= 256
