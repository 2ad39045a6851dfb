"""The files of multi-vectors: what was appended is there, also after an interrupted write and on a full disk."""

import subprocess

import numpy as np
import pytest

from bge_integrations.errors import DiskFullError, IndexFormatError, StorageError
from bge_integrations.index import vector_files
from bge_integrations.index.vector_files import Place, PlacedRows, VectorFiles

BYTES = 12


def documents(*counts, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (count, BYTES), np.uint8) for count in counts]


def test_rows_are_read_again_also_after_reopening(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_files, "_FILE_BYTES", 10 * BYTES)
    added = documents(3, 4, 2, 25, 1, 9, 1, 1)
    files = VectorFiles(tmp_path / "files", BYTES, create=True)
    assert files.append([]) == []
    places = files.append(added[:5]) + files.append(added[5:])
    assert [place.length for place in places] == [3, 4, 2, 25, 1, 9, 1, 1]
    assert len({place.file for place in places}) > 3, "a file holds 10 rows, or one larger document"
    for opened in (files, VectorFiles(tmp_path / "files", BYTES)):
        assert sum(opened.rows.values()) == 46
        for place, rows in zip(places, added, strict=True):
            np.testing.assert_array_equal(opened.rows_at(place), rows)
        chosen = [6, 0, 3, 5, 2]
        placed = PlacedRows(opened, [places[i] for i in chosen])
        expected = np.concatenate([added[i] for i in chosen])
        for begin, end in ((0, len(expected)), (1, 30), (27, 29), (39, 40)):
            found = np.empty((end - begin, BYTES), np.uint8)
            placed.read(begin, found)
            np.testing.assert_array_equal(found, expected[begin:end])


def test_an_interrupted_write_is_skipped(tmp_path):
    files = VectorFiles(tmp_path / "files", BYTES, create=True)
    first, second, third = documents(3, 2, 4)
    (place,) = files.append([first])
    (path,) = (tmp_path / "files").iterdir()
    with path.open("ab") as file:
        file.write(b"x" * (2 * BYTES + 5))  # two rows and a part of one
    for opened in (files, VectorFiles(tmp_path / "files", BYTES)):
        (later,) = opened.append([second if opened is files else third])
        np.testing.assert_array_equal(opened.rows_at(place), first)
        np.testing.assert_array_equal(opened.rows_at(later), second if opened is files else third)
    assert len(path.read_bytes()) % BYTES == 0


def test_files_closed_for_writing_and_removed(tmp_path):
    files = VectorFiles(tmp_path / "files", BYTES, create=True)
    first, second, third = documents(3, 2, 4)
    (place,) = files.append([first])
    files.close_for_writing([place.file])
    (later,) = files.append([second])
    assert later.file > place.file
    files.remove(place.file)
    assert files.rows == {later.file: 2}
    np.testing.assert_array_equal(files.rows_at(later), second)
    with pytest.raises(StorageError):
        files.rows_at(place)
    (last,) = VectorFiles(tmp_path / "files", BYTES).append([third])
    assert last.file == later.file


def test_missing_and_short_files(tmp_path):
    with pytest.raises(IndexFormatError):
        VectorFiles(tmp_path / "files", BYTES)
    files = VectorFiles(tmp_path / "files", BYTES, create=True)
    (place,) = files.append(documents(3))
    for wrong in (place._replace(file=9), place._replace(length=4), Place(1, 3, 1)):
        with pytest.raises(StorageError):
            files.rows_at(wrong)
        with pytest.raises(StorageError):
            PlacedRows(files, [place, wrong])


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can't be mounted here")
    try:
        files = VectorFiles(disk / "files", BYTES, create=True)
        first, large, last = documents(100, 200_000, 50)
        (place,) = files.append([first])
        with pytest.raises(DiskFullError):
            files.append([last, large])
        (later,) = files.append([last])
        np.testing.assert_array_equal(files.rows_at(place), first)
        np.testing.assert_array_equal(files.rows_at(later), last)
        assert sum(path.stat().st_size for path in (disk / "files").iterdir()) == 150 * BYTES
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
