"""Files are replaced as a whole or not at all."""

import os

import pytest

from bge_integrations.atomic_files import write_atomically


def test_a_file_is_created_and_replaced(tmp_path):
    path = tmp_path / "file.json"
    for content in (b"one", b"", b"two\n"):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, b"old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
