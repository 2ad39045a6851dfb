"""What is not read in a folder is counted by kind."""

import pytest

from bge_integrations.documents import find_files
from bge_integrations.documents.folder import follow_folder
from bge_integrations.documents.reading import passed_over
from bge_integrations.index import M3Index


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("a.md", "sub/b.TXT", "contract.docx", "sub/offer.DOCX", "sub/deep/prices.csv", "LICENSE", ".env",
                 ".git/config", "sub/archive.tar.gz", "数据.表格"):  # fmt: skip
        (folder / name).write_text("Pandas eat bamboo.")
    (folder / "picture.md").mkdir()
    return folder


KINDS = {".docx": 2, ".csv": 1, ".gz": 1, ".表格": 1, "without suffix": 1, "hidden": 2}


def test_kinds_are_counted(folder):
    assert passed_over(folder) == KINDS
    assert list(passed_over(folder).values()) == sorted(KINDS.values(), reverse=True)
    assert passed_over(folder / "a.md") == {}
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
    assert passed_over(folder) == KINDS | {"linked folder": 1, "broken link": 1}
    assert [file.name for file in find_files(folder)] == ["a.md", "c.md", "b.TXT"]


def test_follow_folder_reports_them(folder, tmp_path, pocket):
    with M3Index.open(tmp_path / "index", pocket) as index:
        changes = follow_folder(index, folder)
    assert (changes.files, changes.passed_over) == (2, KINDS)
    assert isinstance(hash(changes), int)
