"""A file has the same source on every system, whatever Unicode form its name has on disk."""

import unicodedata

import pytest

from bge_integrations.documents import read_passages
from bge_integrations.documents.folder import FolderChanges, follow_folder
from bge_integrations.index import M3Index


def form(name, text):
    return unicodedata.normalize(name, text)


@pytest.mark.parametrize("name", ["résumé.md", "ガイド.txt", "한국어/문서.md", "Ångström.txt", "Việt Nam/tiếng.md"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_sources_are_composed(tmp_path, pocket, name, on_disk):
    file = tmp_path / form(on_disk, name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("Pandas eat bamboo.")
    assert [p.source for p in read_passages(tmp_path, pocket)] == [form("NFC", name)]
    assert [p.id for p in read_passages(file, pocket)] == [f"{form('NFC', file.name)}#0"]


def test_names_that_differ_only_in_form_are_two_files(tmp_path, pocket):
    for name in ("NFC", "NFD"):
        (tmp_path / form(name, "résumé.md")).write_text(name)
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes both names for one")
    found = {passage.source: passage.text for passage in read_passages(tmp_path, pocket)}
    assert found == {form(name, "résumé.md"): name for name in ("NFC", "NFD")}


def test_a_renamed_form_is_the_same_file(tmp_path, pocket):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / form("NFD", "résumé.md")).write_text("Pandas eat bamboo.")
    with M3Index.open(tmp_path / "index", pocket) as index:
        follow_folder(index, folder)
        assert [hit.text for hit in index.search("panda", filter={"source": form("NFC", "résumé.md")})]
        (folder / form("NFD", "résumé.md")).rename(folder / form("NFC", "résumé.md"))
        assert follow_folder(index, folder) == FolderChanges(files=1, passages=1, added=0, unchanged=1, removed=0)
