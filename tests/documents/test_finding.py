"""What is not read in a folder is counted by kind."""

import unicodedata

import pytest

from bge_integrations.documents import find_files
from bge_integrations.documents.finding import survey
from bge_integrations.documents.folder import follow_folder
from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("a.md", "sub/b.TXT", "contract.doc", "sub/offer.DOC", "sub/deep/prices.ods", "LICENSE", ".env",
                 ".git/config", "sub/archive.tar.gz", "数据.表格"):  # fmt: skip
        (folder / name).write_text("Pandas eat bamboo.")
    (folder / "picture.md").mkdir()
    return folder


KINDS = {".doc": 2, ".ods": 1, ".gz": 1, ".表格": 1, "without suffix": 1, "hidden": 2}


def test_kinds_are_counted(folder):
    assert survey(folder).passed_over == KINDS
    assert list(survey(folder).passed_over.values()) == sorted(KINDS.values(), reverse=True)
    assert survey(folder / "a.md").passed_over == {}
    assert len(find_files(folder)) == 2


def test_links_are_counted(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.md").write_text("Owls hunt.")
    try:
        (folder / "link").symlink_to(tmp_path / "other")
        (folder / "gone.md").symlink_to(tmp_path / "nowhere.md")
        (folder / "c.md").symlink_to(tmp_path / "other" / "c.md")
    except OSError:
        pytest.skip("this system refuses links")
    assert survey(folder).passed_over == KINDS | {"linked folder": 1, "broken link": 1}
    assert [file.name for file in find_files(folder)] == ["a.md", "c.md", "b.TXT"]


def test_follow_folder_reports_them(folder, tmp_path, pocket):
    with M3Index.open(tmp_path / "index", pocket) as index:
        changes = follow_folder(index, folder)
    assert (changes.files, changes.passed_over) == (2, KINDS)
    assert isinstance(hash(changes), int)


PATTERNS = [
    ({"include": ["*.md"]}, ["a.md"]),
    ({"exclude": ["sub/"]}, ["a.md"]),
    ({"exclude": ["sub/**"]}, ["a.md"]),
    ({"exclude": ["*.md"]}, ["sub/b.TXT"]),
    ({"include": ["sub/**"], "exclude": ["*.pdf"]}, ["sub/b.TXT"]),
    ({"include": ["*.md", "b.*"]}, ["a.md", "sub/b.TXT"]),
]


@pytest.mark.parametrize(("patterns", "names"), PATTERNS)
def test_patterns_choose_files(folder, patterns, names):
    found = survey(folder, **patterns)
    assert [file.relative_to(folder).as_posix() for file in found.files] == names
    assert ("excluded" in found.passed_over) == (len(names) < 2)


def test_patterns_see_composed_names(folder):
    (folder / unicodedata.normalize("NFD", "résumé.md")).write_text("Owls hunt.")
    pattern = [unicodedata.normalize("NFC", "résumé.*")]
    assert len(find_files(folder, include=pattern)) == 1
    assert len(find_files(folder, exclude=pattern)) == 2


def test_wrong_patterns(folder):
    with pytest.raises(InvalidInputError) as caught:
        find_files(folder, include="*.md")
    assert caught.value.argument == "include"
    with pytest.raises(InvalidInputError):
        find_files(folder, include=["*.nothing"])


def test_linked_folders_are_followed_by_choice(folder, tmp_path):
    (tmp_path / "other" / "inner").mkdir(parents=True)
    (tmp_path / "other" / "inner" / "c.md").write_text("Owls hunt.")
    try:
        (folder / "link").symlink_to(tmp_path / "other")
        (folder / "again").symlink_to(tmp_path / "other" / "inner")
        (folder / "sub" / "up").symlink_to(folder)
        (tmp_path / "other" / "back").symlink_to(folder)
        (tmp_path / "other" / "around").symlink_to(tmp_path)
    except OSError:
        pytest.skip("this system refuses links")
    assert survey(folder).passed_over["linked folder"] == 3
    found = survey(folder, follow_links=True)
    assert [file.name for file in found.files] == ["a.md", "c.md", "b.TXT"]
