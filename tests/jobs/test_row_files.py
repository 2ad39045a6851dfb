"""`bge index --rows` makes each row of a file a document."""

import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bge_integrations.index import M3Index


@pytest.fixture
def rows(tmp_path):
    """A folder with rows 0 to 29, in two formats; the second lacks a column."""
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = [json.dumps({"key": i, "body": f"Panda {i}", "year": 2000 + i}) for i in range(20)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(
        pa.table({"key": range(20, 30), "body": [f"Panda {i}" for i in range(20, 30)]}), folder / "b.parquet"
    )
    return folder


def test_rows_become_documents_with_their_columns(bge, rows, tmp_path, lengths):
    folder = tmp_path / "index"
    command = ["index", rows, "--index", folder, "--model", "pocket", "--rows", "--field", "body", "--id-field", "key"]
    status, out, _ = bge(*command, "--json")
    assert status == 0
    summary = json.loads(out)
    assert (summary["rows"], summary["added"], summary["documents"]) == (30, 30, 30)
    encoded = len(lengths())
    status, out, _ = bge(*command, "--json")
    assert (status, json.loads(out)["added"]) == (0, 0)
    assert len(lengths()) == encoded  # unchanged rows are not encoded again
    with M3Index.open(folder) as index:
        first, last = index.get(["7", "27"])
    assert (first.text, first.metadata) == ("Panda 7", {"year": 2007})
    assert (last.text, last.metadata) == ("Panda 27", {})


def test_patterns_and_object_stores(bge, rows, tmp_path):
    fsspec.filesystem("memory").pipe("/store/rows.jsonl", (rows / "a.jsonl").read_bytes())
    for number, source in enumerate((f"{rows}/*.jsonl", "memory://store/rows.jsonl")):
        folder = tmp_path / str(number)
        status, _, err = bge("index", source, "--index", folder, "--model", "pocket", "--rows", "--field", "body")
        assert status == 0, err
        with M3Index.open(folder) as index:
            assert len(index) == 20


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rows"],
        ["--rows", "--field", "body", "--id-field", "other"],
        ["--rows", "--field", "body", "--overlap", "3"],
        ["--field", "body"],
    ],
)
def test_mistakes_create_no_index(bge, rows, tmp_path, arguments):
    status, _, err = bge("index", rows, "--index", tmp_path / "index", "--model", "pocket", *arguments)
    assert status == 1
    assert any(name in err for name in ("'text'", "--id-field", "--overlap", "--field"))
    assert not (tmp_path / "index").exists()
