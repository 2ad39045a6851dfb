"""`sync` brings a store in line with documents, and an index in line with a folder."""

import pytest

import bge_integrations.reading
from bge_integrations import documents
from bge_integrations.documents.folder import FolderChanges, follow_folder
from bge_integrations.documents.sync import sync
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.index import M3Index


class MemoryStore:
    """A store in a dict. `sync` must not delete "pinned"; batch number `fail_at` fails."""

    def __init__(self, *, fail_at=None, **rows):
        self.rows = rows
        self.calls = []
        self.fail_at = fail_at

    def put(self, batch):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(sorted(batch))
        self.rows |= batch

    def ids(self):
        return (key for key in self.rows if key != "pinned")

    def delete(self, ids):
        self.calls.append(f"delete {ids}")
        for key in ids:
            del self.rows[key]


def test_new_documents_are_stored_before_others_are_deleted(monkeypatch):
    monkeypatch.setattr("bge_integrations.documents.sync._BATCH", 2)
    store = MemoryStore(a="old", gone="x", pinned="y")
    assert sync(store, iter([("a", "new"), ("b", "1"), ("c", "2")])) == 1
    assert store.calls == [["a", "b"], ["c"], "delete ['gone']"]
    assert store.rows == {"a": "new", "b": "1", "c": "2", "pinned": "y"}


def test_an_interrupted_sync_deletes_nothing_and_can_be_finished(monkeypatch):
    monkeypatch.setattr("bge_integrations.documents.sync._BATCH", 1)
    store = MemoryStore(fail_at=1, gone="x")
    with pytest.raises(KeyboardInterrupt):
        sync(store, {"a": "1", "b": "2"}.items())
    assert store.rows == {"gone": "x", "a": "1"}
    store.fail_at = None
    assert sync(store, {"a": "1", "b": "2"}.items()) == 1
    assert store.rows == {"a": "1", "b": "2"}


def test_an_empty_list_of_documents_is_refused():
    store = MemoryStore(a="1")
    with pytest.raises(InvalidInputError, match="no documents"):
        sync(store, [])
    assert store.rows == {"a": "1"}


def test_an_index_follows_a_folder_and_refuses_another(tmp_path, pocket):
    folder, other = tmp_path / "docs", tmp_path / "other"
    for name, text in (("docs/a.txt", "Owls hunt at night."), ("docs/b.txt", "Bees."), ("other/c.txt", "Ants.")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with M3Index.open(tmp_path / "index", pocket) as index:
        assert follow_folder(index, folder) == FolderChanges(files=2, passages=2, added=2, unchanged=0, removed=0)
        with pytest.raises(InvalidInputError, match="docs"):
            follow_folder(index, other)
        (folder / "b.txt").write_text("")
        with pytest.raises(UnreadableFileError, match=r"b\.txt"):
            follow_folder(index, folder)
        assert len(index) == 2
        unreadable = []
        changes = follow_folder(index, folder, on_unreadable=unreadable.append)
        assert changes == FolderChanges(files=1, passages=1, added=0, unchanged=1, removed=1)
        assert len(unreadable) == 1


def test_the_import_path_of_version_0_1():
    for name in documents.__all__:
        assert getattr(bge_integrations.reading, name) is getattr(documents, name)
